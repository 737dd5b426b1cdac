"""Rule tabulate: the patch table of one slide and grid."""

from pathlib import Path

from histomake.annotation.model import Annotation
from histomake.audit.sidecar import job
from histomake.base.files import read_json
from histomake.cohort.quarantine import quarantined
from histomake.config import Grid
from histomake.patch.tabulate import empty_table, tabulate, write_patch_table
from histomake.tissue.artefacts import ArtefactMap
from histomake.tissue.mask import TissueMask


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    grid, grid_name = Grid.model_validate(params.cfg), snakemake.wildcards.grid
    manifest = read_json(given.manifest)
    with job(snakemake):
        stages = [manifest, *(read_json(path) for path in (given.annotation, given.tissue, given.quality))]
        outcome = quarantined(*stages)
        if outcome:
            table = empty_table(outcome, grid, params.classes, grid_name=grid_name)
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
