"""Rule reuse_model: check that a trained model loads and fits the task, and copy it."""

import shutil
from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_file
from histomake.base.records.model_card import ModelCard
from histomake.config import parse_config
from histomake.learn.inference.predict import load_model
from histomake.model.reuse import adapted_card, mismatches


def main(snakemake):
    config = parse_config(snakemake.config)
    task = config.tasks[snakemake.wildcards.task]
    folder = Path(snakemake.input.weights).parent
    with job(snakemake):
        found = mismatches(folder, task, config.grids[task.grid])
        if found:
            raise HistomakeError("\n".join(found))
        load_model(folder, threads=snakemake.threads)
        with atomic_file(snakemake.output.weights) as aside:
            shutil.copyfile(snakemake.input.weights, aside)
        adapted_card(ModelCard.read(snakemake.input.description), task).write(snakemake.output.description)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
