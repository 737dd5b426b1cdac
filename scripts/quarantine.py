"""Rule quarantine: list the quarantined slides and the warnings of all others; stop if too many are lost."""

from pathlib import Path

from histomake.audit.sidecar import job, log
from histomake.base.file_cache import FileCache
from histomake.base.layout import Layout
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.quality import QualityRecord
from histomake.base.records.record import write_list
from histomake.base.records.tissue import TissueRecord
from histomake.base.records.warning import SlideWarning
from histomake.cohort.quarantine import check_loss, collect
from histomake.patch.table import record_text


def main(snakemake):
    layout, slides = Layout(Path(snakemake.config["results"])), snakemake.params.slides
    cache = FileCache(layout.file_cache("quarantine"))
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
        warnings = SlideWarning.of(records, lost=[entry.slide_id for entry in entries])
        write_list(snakemake.output.entries, entries)
        write_list(snakemake.output.warnings, warnings)
        log.info("%d of %d slides in quarantine, %d warnings", len(entries), len(slides), len(warnings))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
