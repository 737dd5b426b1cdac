"""Rule train_graphs: train the model of one task and fold on graphs."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.config import parse_config
from histomake.graphs.training import train_graphs
from histomake.learn.data.cohort import read_cohort
from histomake.learn.engine.checkpoint import digest


def main(snakemake):
    layout, params = Layout(Path(snakemake.config["results"])), snakemake.params
    task = parse_config(snakemake.config).tasks[snakemake.wildcards.task]
    with job(snakemake) as done:
        cohort = read_cohort(layout, snakemake.input.cohort, grid=task.grid)
        identity = digest({**dict(params.items()), "cohort": [slide.dump() for slide in cohort.slides]})
        state = layout.training_state(snakemake.wildcards.task, snakemake.wildcards.fold, identity[:16])
        train_graphs(
            task,
            train=cohort.train,
            val=cohort.val,
            files={slide.slide_id: layout.graph(params.graph, slide.slide_id) for slide in cohort.slides},
            output=Path(snakemake.output.weights).parent,
            state=done.continue_from(state),
            seed=params.seed,
            threads=snakemake.threads,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
