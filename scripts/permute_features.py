"""Rule permute_features: scores of test slides after groups of features of their nodes were exchanged."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.base.tables import write_table
from histomake.graphs.importance import permuted_scores
from histomake.graphs.predict import load_graph_model
from histomake.learn.data.patch_index import SlideEntry


def main(snakemake):
    layout, params = Layout(Path(snakemake.config["results"])), snakemake.params
    with job(snakemake):
        entries = [SlideEntry.at(layout, params.grid, *values) for values in params.entries]
        files = {one.slide_id: Path(path) for one, path in zip(entries, snakemake.input.graphs, strict=True)}
        model = load_graph_model(Path(snakemake.input.weights).parent)
        table = permuted_scores(model, entries, files, repeats=params.repeats, seed=params.seed)
        write_table(table, snakemake.output.scores)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
