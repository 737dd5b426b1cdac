"""Rule train_pixel_bags: train the model of one task and fold on bags of patches, end to end from their pixels."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.bags.pixel_training import train_pixel_bags
from histomake.base.layout import Layout
from histomake.config import parse_config
from histomake.learn.data.cohort import read_cohort
from histomake.learn.engine.checkpoint import digest
from histomake.learn.train import with_weights


def main(snakemake):
    layout, params, given = Layout(Path(snakemake.config["results"])), snakemake.params, snakemake.input
    config = parse_config(snakemake.config)
    task = with_weights(config.tasks[snakemake.wildcards.task], [*given.pretrained, *given.pretrained_here])
    with job(snakemake) as done:
        cohort = read_cohort(layout, given.cohort, grid=task.grid)
        identity = digest({**dict(params.items()), "cohort": [slide.dump() for slide in cohort.slides]})
        state = layout.training_state(snakemake.wildcards.task, snakemake.wildcards.fold, identity[:16])
        done.lost += train_pixel_bags(
            task,
            train=cohort.train,
            val=cohort.val,
            output=Path(snakemake.output.weights).parent,
            state=done.continue_from(state),
            seed=params.seed,
            threads=snakemake.threads,
            max_lost=config.max_lost,
        ).left_out


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
