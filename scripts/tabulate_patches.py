"""Rule tabulate_patches: the patch table of one slide and grid."""

from pathlib import Path

from histomake.annotation.model import Annotation
from histomake.audit.sidecar import job
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.quality import QualityRecord
from histomake.base.records.record import quarantined
from histomake.base.records.tissue import TissueRecord
from histomake.config import Grid
from histomake.patch.tabulate import empty_table, tabulate, write_patch_table
from histomake.tissue.artefacts import ArtefactMap
from histomake.tissue.mask import TissueMask


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    grid, grid_name = Grid.model_validate(params.cfg), snakemake.wildcards.grid
    with job(snakemake):
        manifest = Manifest.read(given.manifest)
        outcome = quarantined(
            manifest,
            AnnotationRecord.read(given.annotation),
            TissueRecord.read(given.tissue),
            QualityRecord.read(given.quality),
        )
        if outcome:
            table = empty_table(outcome, params.classes)
        else:
            table = tabulate(
                manifest,
                TissueMask.load(Path(given.mask), Path(given.tissue)),
                ArtefactMap.load(Path(given.artefacts), Path(given.quality)),
                Annotation.load(Path(given.annotation)),
                grid,
                params.classes,
                grid_name=grid_name,
                max_share=params.max_share,
            )
        write_patch_table(table, snakemake.output.table)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
