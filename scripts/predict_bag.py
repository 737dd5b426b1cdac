"""Rule predict_bag: scores of a slide or patient, and the attention of every patch of the slide."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.bags.predict import load_bag_model, predict_bag
from histomake.base.layout import Layout
from histomake.base.tables import write_table
from histomake.learn.data.patch_index import SlideEntry


def main(snakemake):
    layout, params = Layout(Path(snakemake.config["results"])), snakemake.params
    with job(snakemake):
        entry, *others = (SlideEntry.at(layout, params.grid, *values) for values in params.entries)
        files = {one.slide_id: Path(path) for one, path in zip((entry, *others), snakemake.input.features, strict=True)}
        table = predict_bag(load_bag_model(Path(snakemake.input.weights).parent), entry, others, files)
        write_table(table, snakemake.output.predictions)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
