"""Rule quarantine: which slides are lost and why, and whether too many are."""

from pathlib import Path

from histomake.audit.sidecar import job, log
from histomake.base.file_cache import Recall
from histomake.base.files import write_json
from histomake.base.layout import Layout
from histomake.cohort.quarantine import check_loss, collect


def main(snakemake):
    layout, slides = Layout(Path(snakemake.output.entries).parent), snakemake.params.slides
    recall = Recall(layout.memory("quarantine"))
    with job(snakemake, recall):
        stages = (layout.manifest, layout.annotation, layout.tissue, layout.quality)
        entries = collect(record for place in stages for record in recall.records(map(place, slides)))
        check_loss(entries, slides=len(slides), max_share=snakemake.params.max_share)
        write_json(snakemake.output.entries, entries)
        log.info("%d of %d slides in quarantine", len(entries), len(slides))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
