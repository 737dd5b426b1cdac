"""Rule predict_features: scores of every kept patch of a slide, from its stored features."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.base.tables import write_table
from histomake.features.predict import load_head, predict_features
from histomake.features.store import read_features
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.inference.predict import lost_predictions


def main(snakemake):
    layout, params = Layout(Path(snakemake.config["results"])), snakemake.params
    with job(snakemake):
        predictor = load_head(Path(snakemake.input.weights).parent)
        entry = SlideEntry.at(layout, params.cfg["grid"], *params.entry)
        lost = read_features(snakemake.input.features).met_damage
        table = (
            lost_predictions(predictor, lost)
            if lost
            else predict_features(predictor, entry, Path(snakemake.input.features))
        )
        write_table(table, snakemake.output.predictions)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
