"""Graphs that no task uses, in the report: their picture and statistics, on the slide's page and the front page."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
from histomake.base.layout import Layout
from histomake.base.records.graph import GraphRecord
from histomake.config import Config, Graph
from histomake.graphs.build import NO_EDGES, describe
from histomake.graphs.store import write_graph
from histomake.report.graph_of_slide import graph_of_slide
from histomake.report.graphs_section import graphs_section
from PIL import Image

from tests import sample_records

GRAPH = {"nodes": "patch", "grid": "x10", "features": ["position"]}
NO_LENGTHS = np.zeros(0, np.float32)


def written(layout, slide, count):
    """A graph of ``count`` nodes in a row, 10 µm apart, and its picture; its statistics."""
    pairs = np.stack([np.arange(count - 1), np.arange(1, count)], axis=1) if count > 1 else NO_EDGES
    length = np.full(len(pairs), 10, np.float32)
    statistics = describe(count, pairs, length)
    record = GraphRecord(
        slide_id=slide,
        sha256="0" * 64,
        mpp=1.0,
        settings=Graph(**GRAPH).dump(),
        groups=[],
        identity="i",
        found=count,
        statistics=statistics,
    )
    places = np.arange(count, dtype=np.uint32), np.arange(count) * 10.0, np.zeros(count)
    write_graph(layout.graph("g", slide), record, places, (pairs, length), {})
    Image.new("RGB", (40, 30)).save(layout.graph_view("g", slide))
    return statistics


@pytest.fixture
def layout(tmp_path):
    found = Layout(tmp_path)
    found.graph("g", "S").parent.mkdir(parents=True)
    return found


def section(layout, name="S"):
    return str(graph_of_slide("g", layout.graph("g", name), layout.graph_view("g", name)))


def test_the_page_of_a_slide_shows_the_picture_and_the_statistics(layout):
    written(layout, "S", 3)
    found = section(layout)
    assert "data:image/jpeg" in found
    for text in ("1.33", "10.0 µm", "100.0%"):
        assert text in found


def test_statistics_that_are_undefined_are_left_out(layout):
    written(layout, "S", 0)
    assert "median length" not in section(layout)


def test_the_page_says_why_a_slide_has_no_graph(layout):
    lost = sample_records.lost("S", stage="graph", detail="too many nodes")
    none = (np.zeros(0, np.uint32), np.zeros(0), np.zeros(0))
    write_graph(layout.graph("g", "S"), lost, none, (NO_EDGES, NO_LENGTHS), {})
    assert "too many nodes" in section(layout)


@pytest.mark.parametrize("used", [False, True])
def test_the_front_page_shows_the_largest_graph_unless_a_task_has_its_picture(layout, used):
    graph_task = {"kind": "classification", "level": "slide", "grid": "x10", "graph": "g"}
    target = {"source": "sheet", "column": "site", "classes": ["a", "b"]}
    tasks = {"t": graph_task | {"target": target}} if used else {}
    config = Config.model_validate({"grids": {"x10": {"mpp": 1.0}}, "graphs": {"g": GRAPH}, "tasks": tasks})
    with duckdb.connect() as catalog:
        for slide, count in (("S", 3), ("T", 5)):
            catalog.execute(
                "CREATE TABLE IF NOT EXISTS graph_g (slide_id VARCHAR, nodes DOUBLE, edges DOUBLE, "
                "isolated DOUBLE, mean_degree DOUBLE, median_edge_um DOUBLE, components DOUBLE, "
                "largest_component DOUBLE)"
            )
            catalog.execute(
                "INSERT INTO graph_g VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [slide, *written(layout, slide, count).values()]
            )
        found = str(graphs_section(config, layout, catalog))
    assert ("of slide T" in found) is not used
