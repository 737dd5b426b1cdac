"""Rule train: train the model of one task and fold."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.config import parse_config
from histomake.learn.data.cohort import read_cohort
from histomake.learn.engine.checkpoint import digest
from histomake.learn.train import train, with_weights


def checkpoints(snakemake, layout, cohort):
    """Folder of the checkpoints: one per identity of the training, so that none resumes another one."""
    identity = digest({**dict(snakemake.params.items()), "cohort": [slide.dump() for slide in cohort]})
    return layout.training_state(snakemake.wildcards.task, snakemake.wildcards.fold, identity[:16])


def main(snakemake):
    layout = Layout(Path(snakemake.config["results"]))
    # params.cfg is what the model depends on. How the job is run is read here, so that it can change freely.
    config = parse_config(snakemake.config)
    task = config.tasks[snakemake.wildcards.task]
    task = with_weights(task, [*snakemake.input.pretrained, *snakemake.input.pretrained_here])
    with job(snakemake) as done:
        cohort = read_cohort(layout, snakemake.input.cohort, grid=task.grid)
        done.lost += train(
            task,
            train=cohort.train,
            val=cohort.val,
            class_names=snakemake.params.classes,
            output=Path(snakemake.output.weights).parent,
            state=done.continue_from(checkpoints(snakemake, layout, cohort.slides)),
            seed=snakemake.params.seed,
            threads=snakemake.threads,
            max_lost=config.max_lost,
        ).left_out


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
