"""Rule build_graph: the graph of one slide, and its statistics."""

from pathlib import Path

from histomake.audit.sidecar import job
from histomake.base.files import store_of
from histomake.config import Graph
from histomake.graphs.build import build_graph
from histomake.graphs.nodes import NodeFiles


def main(snakemake):
    given, params = snakemake.input, snakemake.params
    places = {key: Path(next(iter(given[key]))) for key in ("table", "features", "scores", "cells") if given[key]}
    labels = {"labels": store_of(next(iter(given.labels)))} if given.labels else {}
    with job(snakemake) as done:
        build_graph(
            Path(given.manifest),
            NodeFiles(**places, **labels),
            Graph.model_validate(params.cfg),
            class_names=params.class_names,
            seed=params.seed,
            output=Path(snakemake.output.graph),
            table=Path(snakemake.output.statistics),
            lost=done.lost,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
