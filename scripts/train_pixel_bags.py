"""Rule train_pixel_bags: train the model of one task and fold on bags of patches, end to end from their pixels."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.bags.pixel_training import train_pixel_bags
from histomake.base.layout import Layout
from histomake.base.records.cohort import CohortSlide
from histomake.config import parse_config
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.engine.checkpoint import digest
from histomake.learn.train import with_weights


def main(snakemake):
    layout, params, given = Layout(Path(snakemake.config["results"])), snakemake.params, snakemake.input
    config = parse_config(snakemake.config)
    task = with_weights(config.tasks[snakemake.wildcards.task], [*given.pretrained, *given.pretrained_here])
    slides = {"train": [], "val": []}
    with job(snakemake) as done:
        cohort = CohortSlide.read_list(given.cohort)
        for slide in cohort:
            entry = SlideEntry.at(layout, task.grid, slide.slide_id, slide.patient_id, slide.labels)
            slides[slide.role].append(entry)
        identity = digest({**dict(params.items()), "cohort": [slide.dump() for slide in cohort]})
        done.lost += train_pixel_bags(
            task,
            **slides,
            output=Path(snakemake.output.weights).parent,
            state=layout.training_state(snakemake.wildcards.task, snakemake.wildcards.fold, identity[:16]),
            seed=params.seed,
            threads=snakemake.threads,
            max_lost=config.max_lost,
        ).left_out


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
