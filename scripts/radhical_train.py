"""Rule radhical_train: train the network of one level of a cascade."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.cascade.train import train_slides
from histomake.config import Annotations, parse_config
from histomake.learn.engine.checkpoint import digest


def main(snakemake):
    layout = Layout(Path(snakemake.config["results"]))
    # params.cfg is what the level depends on. How the job is run is read here, so that it can change freely.
    cascade, level = snakemake.wildcards.cascade, snakemake.wildcards.level
    config = parse_config(snakemake.config).radhical[cascade]
    with job(snakemake) as done:
        train_slides(
            list(zip(snakemake.input.manifests, snakemake.input.annotations, strict=True)),
            int(level),
            annotations=Annotations.model_validate(snakemake.params.annotations),
            config=config,
            output=Path(snakemake.output.weights).parent,
            state=done.continue_from(layout.level_state(cascade, level, digest(dict(snakemake.params.items()))[:16])),
            seed=snakemake.params.seed,
            threads=snakemake.threads,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
