"""Report sections of graphs: nodes and edges on each slide, what is missing, and what edges add to a task."""

from __future__ import annotations

import duckdb

from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.graph import EDGE_ABLATIONS, REWIRED, WITHOUT_EDGES
from histomake.base.records.metrics import MetricsRecord
from histomake.base.records.record import Quarantined
from histomake.config import Config, Task
from histomake.graphs.store import read_graph
from histomake.report import page
from histomake.report.metric_texts import highest_level, metric_name
from histomake.report.page import Html

SLIDES = """
SELECT slide_id::VARCHAR, nodes::BIGINT, edges::BIGINT, isolated::BIGINT, mean_degree, median_edge_um,
    components::BIGINT, largest_component
FROM {table} WHERE nodes IS NOT NULL ORDER BY 1
"""
HEADER = ["slide", "nodes", "edges", "isolated", "mean degree", "median edge, µm", "components", "largest, share"]

ABLATION_TEXTS = {WITHOUT_EDGES: "same nodes without edges", REWIRED: "same nodes, edges at random"}
COMPARED = ("auroc", "c_index", "r2")
"""Metrics by which a network on graphs is compared with its ablations, the first that is there; larger is better."""


def graphs_section(config: Config, layout: Layout, catalog: duckdb.DuckDBPyConnection) -> Html:
    """Graphs by name under ``graphs``; nothing if there are none."""
    parts = [_graph(name, graph.nodes, graph.edges, layout, catalog) for name, graph in config.graphs.items()]
    return page.section("Graphs", *parts, anchor="graphs") if parts else Html("")


def _graph(name: str, nodes: str, edges: str, layout: Layout, catalog: duckdb.DuckDBPyConnection) -> Html:
    records = [read_graph(path).record for path in existing(layout.graph(name, "*"), under=layout.results)]
    if not records:
        return page.section(name, page.tag("p", "No slide has nodes of this source."), level=3)
    slides = catalog.execute(SLIDES.format(table=f'"graph_{name}"')).fetchall()
    lost = [[r.slide_id, r.stage, r.detail, r.remedy] for r in records if isinstance(r, Quarantined)]
    warnings = [[r.slide_id, text] for r in records if not isinstance(r, Quarantined) for text in r.warnings]
    what = f"Nodes: {nodes}; edges: {edges}; {len(records)} slides, {len(lost)} of them without a graph."
    return page.section(
        name,
        page.tag("p", what),
        page.table(["slide", "stage", "problem", "remedy"], lost) if lost else "",
        page.table(["slide", "warning"], warnings) if warnings else "",
        page.folded("by slide", page.table(HEADER, slides)),
        level=3,
    )


def what_edges_add(metrics: MetricsRecord) -> Html:
    """Whether a network on graphs is better than the same one without edges and with random ones; empty of others."""
    level = highest_level(metrics.levels)
    own = metrics.levels[level].metrics.get("all", {})
    name = next((name for name in COMPARED if name in own and own[name].value is not None), None)
    others = {
        ablation: found.metrics["all"][name].value
        for ablation in EDGE_ABLATIONS
        if name is not None and (found := metrics.baselines.get(ablation, {}).get(level)) is not None
    }
    known = {ablation: value for ablation, value in others.items() if value is not None}
    if name is None or not known:
        return Html("")
    best = max(known, key=lambda ablation: known[ablation])
    value, low = own[name].value, own[name].low
    figures = f"{metric_name(name)} {value:.3f}, {ABLATION_TEXTS[best]} {known[best]:.3f}"
    if value is None or value <= known[best]:
        return page.tag("p", f"The edges add nothing: {figures}.", class_="warn")
    if low is None or low <= known[best]:
        text = f"These slides do not show that the edges add anything: {figures}, which is within the interval."
        return page.tag("p", text, class_="warn")
    return page.tag("p", f"The edges add to what is known of the nodes alone: {figures}.")


def network_text(task: Task) -> str:
    """The network of a task on graphs."""
    beside = "" if task.fuse is None else f", beside {task.pooling.name} pooling of the nodes"
    return f"network {task.gnn.name} with {task.gnn.layers} layers{beside}"
