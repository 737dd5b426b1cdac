"""Report sections of graphs: nodes and edges on each slide, what is missing, and what edges add to a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb

from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.graph import (
    AMONG_SLIDES,
    EDGE_ABLATIONS,
    EVERY_GROUP,
    REWIRED,
    WITHIN_SLIDES,
    WITHOUT_EDGES,
)
from histomake.base.records.metrics import FeatureImportance, LevelMetrics, MetricDifference, MetricsRecord
from histomake.base.records.record import Quarantined
from histomake.config import Config, Task
from histomake.graphs.store import read_graph
from histomake.report import page
from histomake.report.metric_texts import LEVELS, highest_level, metric_name
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
    with_tasks = {task.graph for task in config.tasks.values()}
    parts = [
        _graph(name, graph.nodes, graph.edges, layout, catalog, drawn=name not in with_tasks)
        for name, graph in config.graphs.items()
    ]
    return page.section("Graphs", *parts, anchor="graphs") if parts else Html("")


def _graph(
    name: str, nodes: str, edges: str, layout: Layout, catalog: duckdb.DuckDBPyConnection, *, drawn: bool
) -> Html:
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
        _largest(name, slides, layout) if drawn else "",
        page.folded("by slide", page.table(HEADER, slides)),
        level=3,
    )


def _largest(name: str, slides: Sequence[tuple[Any, ...]], layout: Layout) -> Html:
    """Picture of the graph with most nodes, of graphs that have pictures of their own."""
    drawn = {path.stem: path for path in existing(layout.graph_view(name, "*"), under=layout.results)}
    slide = max((row for row in slides if row[0] in drawn), key=lambda row: row[1], default=None)
    if slide is None:
        return Html("")
    return page.picture(drawn[slide[0]], f"The graph with most nodes, of slide {slide[0]}; others are on their pages")


def compared_by(level: LevelMetrics) -> str | None:
    """The metric by which a task is compared with others; None where none is defined."""
    own = level.metrics.get("all", {})
    return next((name for name in COMPARED if name in own and own[name].value is not None), None)


def what_edges_add(metrics: MetricsRecord) -> Html:
    """Whether a network on graphs is better than the same one without edges and with random ones; empty of others.

    It is if the interval of the difference, by paired resampling of patients, lies above 0 for both.
    """
    level = highest_level(metrics.levels)
    name = compared_by(metrics.levels[level])
    found = {
        ablation: differences.metrics["all"][name]
        for ablation in EDGE_ABLATIONS
        if name is not None
        and (differences := metrics.baseline_differences.get(ablation, {}).get(level)) is not None
        and differences.metrics["all"][name].difference.value is not None
    }
    if name is None or not found:
        return Html("")
    least = min(found, key=lambda ablation: _lower_end(found[ablation]))
    gap = found[least].difference
    interval = "" if gap.low is None else f" ({gap.low:+.3f} to {gap.high:+.3f})"
    figures = (
        f"{metric_name(name)} {found[least].first:.3f}, {ABLATION_TEXTS[least]} {found[least].second:.3f}, "
        f"difference {gap.value:+.3f}{interval}"
    )
    if gap.value is None or gap.value <= 0:
        return page.tag("p", f"The edges add nothing: {figures}.", class_="warn")
    if _lower_end(found[least]) <= 0:
        text = f"These slides do not show that the edges add anything: {figures}, which includes no difference."
        return page.tag("p", text, class_="warn")
    return page.tag("p", f"The edges add to what is known of the nodes alone: {figures}.")


def _lower_end(found: MetricDifference) -> float:
    """Lower end of the interval of a difference, or, without one, nothing that is above 0."""
    gap = found.difference
    return min(gap.value or 0.0, 0.0) if gap.low is None else gap.low


def feature_groups(metrics: MetricsRecord) -> list[Html]:
    """What each group of features is worth to a network on graphs: a text and a table."""
    level = highest_level(metrics.levels)
    name = compared_by(metrics.levels[level])
    if name is None:
        return []
    rows = []
    for group, scopes in sorted(metrics.importance.items(), key=lambda item: item[0] == EVERY_GROUP):
        cells = [_worth(scopes.get(scope, {}).get(level, {}).get(name)) for scope in (AMONG_SLIDES, WITHIN_SLIDES)]
        rows.append(["all groups, so that edges alone are left" if group == EVERY_GROUP else group, *cells])
    title, own = metric_name(name), metrics.levels[level].metrics["all"][name].value
    text = (
        f"{LEVELS[level]}: {title} {own:.3f}. Features of a group are exchanged between nodes at random, among "
        "all test slides, so that they say nothing about a slide, or within each slide, so that only where they "
        "lie is lost. ± is the standard deviation over the permutations; the test slides are the same in all. A "
        "group can lose nothing because another one tells the same."
    )
    header = ["features exchanged", f"{title}, among slides", "loss", f"{title}, within slides", "loss"]
    return [page.tag("p", text), page.table(header, [[row[0], *row[1], *row[2]] for row in rows])]


def _worth(found: FeatureImportance | None) -> tuple[str, str]:
    if found is None:
        return "", ""
    spread = "" if found.spread is None else f" ± {found.spread:.3f}"
    return f"{found.permuted:.3f}", f"{found.loss:+.3f}{spread}"


def network_text(task: Task) -> str:
    """The network of a task on graphs."""
    beside = "" if task.fuse is None else f", beside {task.pooling.name} pooling of the nodes"
    return f"network {task.gnn.name} with {task.gnn.layers} layers{beside}"
