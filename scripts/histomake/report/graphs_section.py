"""Report section of graphs: numbers of nodes and edges on each slide, and what is missing."""

from __future__ import annotations

import duckdb

from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined
from histomake.config import Config
from histomake.graphs.store import read_graph
from histomake.report import page
from histomake.report.page import Html

SLIDES = """
SELECT slide_id::VARCHAR, nodes::BIGINT, edges::BIGINT, isolated::BIGINT, mean_degree, median_edge_um,
    components::BIGINT, largest_component
FROM {table} WHERE nodes IS NOT NULL ORDER BY 1
"""
HEADER = ["slide", "nodes", "edges", "isolated", "mean degree", "median edge, µm", "components", "largest, share"]


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
