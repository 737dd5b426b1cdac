"""Rule predict_graph: scores of a slide or patient, and the attention of the nodes of the slide."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.layout import Layout
from histomake.base.tables import write_table
from histomake.graphs.predict import load_graph_model, predict_graph
from histomake.learn.data.patch_index import SlideEntry


def main(snakemake):
    layout, params = Layout(Path(snakemake.config["results"])), snakemake.params
    with job(snakemake):
        entry, *others = (SlideEntry.at(layout, params.grid, *values) for values in params.entries)
        files = {one.slide_id: Path(path) for one, path in zip((entry, *others), snakemake.input.graphs, strict=True)}
        found = predict_graph(load_graph_model(Path(snakemake.input.weights).parent), entry, others, files)
        write_table(found.patches, snakemake.output.predictions)
        write_table(found.nodes, snakemake.output.nodes)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
