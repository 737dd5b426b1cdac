"""Rules predict_slide and segment_slide: scores of every tissue patch of a slide; of a segmentation also its labels."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.files import store_of
from histomake.base.layout import Layout
from histomake.base.tables import write_table
from histomake.config import parse_config
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.inference.predict import load_model, predict_slide
from histomake.learn.inference.segment import segment_slide
from histomake.target.kinds import LEARNED


def main(snakemake):
    layout = Layout(Path(snakemake.config["results"]))
    task = parse_config(snakemake.config).tasks[snakemake.wildcards.task]
    settings = task.predict
    options = {"batch": settings.batch, "threads": snakemake.threads, "flips": settings.flips}
    with job(snakemake):
        predictor = load_model(Path(snakemake.input.weights).parent, threads=snakemake.threads)
        entry = SlideEntry.at(layout, task.grid, *snakemake.params.entry)
        if LEARNED[task.kind].per_pixel:
            labels, outlines = store_of(snakemake.output.labels), Path(snakemake.output.outlines)
            table = segment_slide(
                predictor, entry, labels=labels, polygons=outlines, overlap=settings.overlap, **options
            )
        else:
            table = predict_slide(predictor, entry, **options)
        write_table(table, snakemake.output.predictions)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
