"""Rule train_head: train the head of one task and fold on stored features."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.base.records.cohort import CohortSlide
from histomake.config import parse_config
from histomake.features.training import train_head
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.engine.checkpoint import digest


def main(snakemake):
    layout, params = Layout(Path(snakemake.config["results"])), snakemake.params
    task = parse_config(snakemake.config).tasks[snakemake.wildcards.task]
    slides = {"train": [], "val": []}
    with job(snakemake):
        cohort = CohortSlide.read_list(snakemake.input.cohort)
        for slide in cohort:
            entry = SlideEntry.at(layout, task.grid, slide.slide_id, slide.patient_id, slide.labels)
            slides[slide.role].append(entry)
        identity = digest({**dict(params.items()), "cohort": [slide.dump() for slide in cohort]})
        train_head(
            task,
            **slides,
            files={slide.slide_id: layout.features(params.group, slide.slide_id) for slide in cohort},
            column=params.column,
            output=Path(snakemake.output.weights).parent,
            state=layout.training_state(snakemake.wildcards.task, snakemake.wildcards.fold, identity[:16]),
            seed=params.seed,
            threads=snakemake.threads,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
