"""Rule quarantine: list the quarantined slides and the warnings of all others; stop if too many are lost."""

from pathlib import Path

from histomake.audit.caches import open_cache
from histomake.audit.sidecar import job, log
from histomake.base.layout import Layout
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.quality import QualityRecord
from histomake.base.records.record import write_list
from histomake.base.records.tissue import TissueRecord
from histomake.base.records.warning import SlideWarning
from histomake.cohort.quarantine import check_loss, collect
from histomake.config import Grid
from histomake.patch.grid import too_coarse
from histomake.patch.table import record_text


def main(snakemake):
    layout, slides = Layout(Path(snakemake.config["results"])), snakemake.params.slides
    cache = open_cache(layout, "quarantine")
    with job(snakemake, cache):
        stages = (
            (layout.manifest, Manifest),
            (layout.annotation, AnnotationRecord),
            (layout.tissue, TissueRecord),
            (layout.quality, QualityRecord),
        )
        records = [record for place, kind in stages for record in cache.read_records(map(place, slides), kind.decode)]
        tables = [layout.table(snakemake.params.grid, slide) for slide in slides]
        records += cache.read_records(tables, PatchTableRecord.decode, record_text)
        entries = collect(records)
        check_loss(entries, slides=len(slides), max_share=snakemake.params.max_share)
        lost = [entry.slide_id for entry in entries]
        # The tables of other grids are no input of this rule; the manifest says as much as they do.
        manifests = [record for record in records if isinstance(record, Manifest) and record.slide_id not in lost]
        grids = {name: Grid.model_validate(grid) for name, grid in snakemake.params.other_grids.items()}
        warnings = SlideWarning.of(records, lost=lost) + too_coarse(manifests, grids)
        write_list(snakemake.output.entries, entries)
        warnings += [SlideWarning.of_lost_original(slide) for slide in snakemake.params.without_file]
        write_list(snakemake.output.warnings, warnings)
        log.info("%d of %d slides in quarantine, %d warnings", len(entries), len(slides), len(warnings))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
