"""Rule quarantine: which slides are lost and why, and whether too many are."""

from histomake.files import read_json, write_json
from histomake.job import job, log
from histomake.quarantine import check_loss, collect


def main(snakemake):
    stages = (snakemake.input[name] for name in ("manifests", "annotations", "tissue", "quality"))
    with job(snakemake):
        entries = collect(read_json(path) for paths in stages for path in paths)
        slides = len(snakemake.input.manifests)
        check_loss(entries, slides=slides, max_share=snakemake.params.max_share)
        write_json(snakemake.output.entries, entries)
        log.info("%d of %d slides in quarantine", len(entries), slides)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
