"""Rule predict_pixel_bag: scores of a slide or patient from pixels, and the attention of every patch of the slide."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.bags.pixel_predict import load_pixel_bag_model, predict_pixel_bag
from histomake.base.layout import Layout
from histomake.base.tables import lost_slide, write_table
from histomake.learn.data.patch_index import SlideEntry


def main(snakemake):
    layout, params = Layout(Path(snakemake.config["results"])), snakemake.params
    with job(snakemake) as done:
        entry, *others = (SlideEntry.at(layout, params.grid, *values) for values in params.entries)
        predictor = load_pixel_bag_model(Path(snakemake.input.weights).parent, threads=snakemake.threads)
        table = predict_pixel_bag(predictor, entry, others)
        if found := lost_slide(table):
            done.lost.append(found)
        write_table(table, snakemake.output.predictions)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
