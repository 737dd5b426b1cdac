"""Rule quarantine: which slides are lost and why, and whether too many are."""

from pathlib import Path

from histomake.files import write_json
from histomake.job import job, log
from histomake.layout import Layout
from histomake.quarantine import check_loss, collect
from histomake.recall import Recall


def main(snakemake):
    stages = [snakemake.input[name] for name in ("manifests", "annotations", "tissue", "quality")]
    recall = Recall(Layout(Path(snakemake.output.entries).parent).memory("quarantine"))
    with job(snakemake, recall):
        entries = collect(record for paths in stages for record in recall.records(paths))
        slides = len(snakemake.input.manifests)
        check_loss(entries, slides=slides, max_share=snakemake.params.max_share)
        write_json(snakemake.output.entries, entries)
        log.info("%d of %d slides in quarantine", len(entries), slides)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
