"""Rule draw_samples: samples of a generator as single images."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.generate.growing.samples import GeneratedImages, write_samples


def main(snakemake):
    wildcards = snakemake.wildcards
    with job(snakemake):
        folder = Path(snakemake.input.weights).parent
        samples = GeneratedImages(folder, seed=int(wildcards.seed), threads=snakemake.threads)
        write_samples(samples, Path(snakemake.output.folder), count=int(wildcards.images))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
