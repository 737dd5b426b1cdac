"""Rule sample_generator: a picture of samples of a generator."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.generate.growing.samples import GeneratedImages, draw_grid


def main(snakemake):
    with job(snakemake):
        folder = Path(snakemake.input.weights).parent
        samples = GeneratedImages(folder, seed=snakemake.params.seed, threads=snakemake.threads)
        draw_grid(samples, Path(snakemake.output.samples))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
