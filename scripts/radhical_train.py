"""Rule radhical_train: train the network of one level of a cascade."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.cascade.samples import training_fields
from histomake.cascade.train import train_level
from histomake.config import Annotations, Radhical


def main(snakemake):
    config = Radhical.model_validate(snakemake.params.cfg)
    slides = list(zip(snakemake.input.manifests, snakemake.input.annotations, strict=True))
    with job(snakemake):
        train_level(
            training_fields(slides, Annotations.model_validate(snakemake.params.annotations), config),
            int(snakemake.wildcards.level),
            network=config.network,
            config=config.train,
            output=Path(snakemake.output.weights).parent,
            seed=snakemake.params.seed,
            threads=snakemake.threads,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
