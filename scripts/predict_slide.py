"""Rules predict_slide and segment_slide: scores of every tissue patch of a slide; of a segmentation also its labels."""

from dataclasses import replace
from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.files import store_of
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined
from histomake.base.tables import write_table
from histomake.cohort.quarantine import attempt
from histomake.config import parse_config
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.inference.predict import load_model, lost_predictions, predict_slide
from histomake.learn.inference.segment import segment_slide, write_no_segmentation
from histomake.target.kinds import LEARNED


def main(snakemake):
    layout, out = Layout(Path(snakemake.config["results"])), snakemake.output
    task = parse_config(snakemake.config).tasks[snakemake.wildcards.task]
    settings, per_pixel = task.predict, LEARNED[task.kind].per_pixel
    options = {
        "batch": settings.batch,
        "threads": snakemake.threads,
        "flips": settings.flips,
        "decode": settings.decode,
    }
    with job(snakemake) as done:
        predictor = load_model(Path(snakemake.input.weights).parent, threads=snakemake.threads)
        entry = SlideEntry.at(layout, task.grid, *snakemake.params.entry)
        entry = replace(entry, manifest=Path(snakemake.input.manifest))  # as scanned, or in silico
        images = {"labels": store_of(out.labels), "polygons": Path(out.outlines)} if per_pixel else {}

        def work():
            if per_pixel:
                return segment_slide(predictor, entry, overlap=settings.overlap, **images, **options)
            return predict_slide(predictor, entry, **options)

        table = attempt("predict", work, lost=done.lost)
        if isinstance(table, Quarantined):
            if per_pixel:
                write_no_segmentation(predictor, lost=table, **images)
            table = lost_predictions(predictor, table)
        write_table(table, out.predictions)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
