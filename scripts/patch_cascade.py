"""Rule patch_cascade: predict one slide with classifiers of several magnifications, coarse to fine."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.base.tables import write_table
from histomake.cascade.patch_cascade import Stage, cascade_patches
from histomake.config import PatchCascade
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.inference.predict import load_model


def main(snakemake):
    config = PatchCascade.model_validate(snakemake.params.cfg)
    layout = Layout(Path(snakemake.config["results"]))
    stages = []
    with job(snakemake):
        for stage, weights in zip(config.stages, snakemake.input.weights, strict=True):
            predictor = load_model(Path(weights).parent, threads=snakemake.threads)
            entry = SlideEntry.at(layout, predictor.task.grid, *snakemake.params.entry)
            stages.append(Stage(predictor, entry, stage.lower, stage.upper))
        table, record = cascade_patches(
            stages, config.class_name, batch=snakemake.params.batch, threads=snakemake.threads
        )
        write_table(table, snakemake.output.predictions)
        record.write(snakemake.output.record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
