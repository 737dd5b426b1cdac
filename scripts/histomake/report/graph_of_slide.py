"""Section of a slide's page: a graph that no task uses, with its statistics."""

from __future__ import annotations

from pathlib import Path

from histomake.base.records.record import Quarantined
from histomake.graphs.store import read_graph
from histomake.report import page
from histomake.report.page import Html

WHOLE = {"nodes": "nodes", "edges": "edges", "isolated": "nodes without edges", "components": "connected components"}
"""Titles of the statistics that are counts, by name."""


def graph_of_slide(name: str, graph: Path, picture: Path) -> Html:
    """Picture and statistics of graph ``name``, or why the slide has none."""
    record = read_graph(graph).record
    if isinstance(record, Quarantined):
        text = f"The slide has no graph: {record.detail}. {record.remedy}"
        return page.section(f"Graph {name}", page.tag("p", text, class_="warn"))
    known = {key: value for key, value in record.statistics.items() if value is not None}
    facts = {title: f"{known[key]:,.0f}" for key, title in WHOLE.items() if key in known}
    if "mean_degree" in known:
        facts["mean number of edges of a node"] = f"{known['mean_degree']:.2f}"
    if "median_edge_um" in known:
        facts["median length of an edge"] = f"{known['median_edge_um']:.1f} µm"
    if "largest_component" in known:
        facts["nodes in the largest component"] = f"{known['largest_component']:.1%}"
    warnings = [page.tag("p", text, class_="warn") for text in record.warnings]
    return page.section(
        f"Graph {name}", *warnings, page.facts(facts), page.picture(picture, "The graph on its tissue: nodes and edges")
    )
