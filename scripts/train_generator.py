"""Rule train_generator: train a growing generator."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.config import parse_config
from histomake.generate.growing.training import train_generator
from histomake.learn.data.cohort import read_cohort
from histomake.learn.engine.checkpoint import digest
from histomake.patch.field_grid import grid_name


def main(snakemake):
    layout = Layout(Path(snakemake.config["results"]))
    # params.cfg is what the generator depends on. How the job is run is read here, so that it can change freely.
    config = parse_config(snakemake.config)
    name = snakemake.wildcards.generator
    with job(snakemake) as done:
        cohort = read_cohort(layout, snakemake.input.cohort, grid=grid_name(name))
        identity = digest({**dict(snakemake.params.items()), "cohort": [slide.dump() for slide in cohort.slides]})
        done.lost += train_generator(
            config.generators[name],
            entries=cohort.train,
            output=Path(snakemake.output.weights).parent,
            state=done.continue_from(layout.generator_state(name, identity[:16])),
            seed=snakemake.params.seed,
            threads=snakemake.threads,
            max_lost=config.max_lost,
        ).left_out


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
