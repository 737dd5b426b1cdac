"""Graphs in the viewer: layers of edges and nodes, in the colours of classes or of what nodes contribute."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest
from histomake.base.layout import Layout
from histomake.base.records.graph import FeatureGroup, GraphRecord
from histomake.base.records.model_card import BagCard, GraphCard
from histomake.base.tables import write_table
from histomake.config import Gnn, Graph
from histomake.graphs.build import NO_EDGES
from histomake.graphs.edges import lengths
from histomake.graphs.store import write_graph
from histomake.pictures import canvas
from histomake.viewer import graph_layers, masks
from histomake.viewer.graph_layers import EDGE, NODE, class_order, describe, open_layer
from histomake.viewer.outlines import FINER

from tests import sample_records

SLIDE = "S"
PLACES = np.array([[20.0, 20.0], [80.0, 20.0], [20.0, 80.0]])
PAIRS = np.array([[0, 1]])


def write(layout, name="cells", places=PLACES, pairs=PAIRS):
    record = GraphRecord(
        slide_id=SLIDE,
        sha256="ab" * 32,
        mpp=0.5,
        settings=Graph(nodes="cell", cells="nuclei", features=["class"]).dump(),
        groups=[FeatureGroup(name="class", values=["is_round", "is_long"])],
        identity="i",
        found=len(places),
    )
    path = layout.graph(name, SLIDE)
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.arange(len(places), dtype=np.uint32)
    classes = {"class": np.array([[1, 0], [0, 1], [0, 0]], np.float32)[: len(places)]}
    write_graph(path, record, (ids, *places.T), (pairs, lengths(places * 0.5, pairs)), classes)


def predict(layout, low, high, task="grade", fold=1):
    graph = GraphCard(name="cells", identity="i", groups={}, encoder=None, gnn=Gnn().dump(), fuse=None, ablations=[])
    bag = BagCard(level="slide", bag={}, pooling={}, usual=[0.5], graph=graph)
    layout.description(task, fold).parent.mkdir(parents=True, exist_ok=True)
    sample_records.model_card(class_names=["low", "high"], bag=bag).write(layout.description(task, fold))
    layout.predicted_nodes(task, fold, SLIDE).parent.mkdir(parents=True, exist_ok=True)
    columns = {"contribution_low": low, "contribution_high": high, "attention": [0.3] * len(low)}
    table = pa.table({"node_id": np.arange(len(low)), **columns})
    write_table(table, layout.predicted_nodes(task, fold, SLIDE))


@pytest.fixture
def layout(tmp_path):
    found = Layout(tmp_path / "results")
    found.manifest(SLIDE).parent.mkdir(parents=True)
    sample_records.manifest(SLIDE, width=100, height=100, mpp=0.5).write(found.manifest(SLIDE))
    write(found)
    return found


def colour_at(layer, x, y):
    """Class of a level-0 position on the finest level; None where nothing is drawn."""
    row, column = (int(value * FINER) for value in (y, x))
    tile = layer.tile(0, row // 512, column // 512)
    number = tile[row % 512, column % 512]
    return layer.classes[number - 1] if number else None


def test_a_graph_has_its_edges_and_nodes_in_the_colours_of_their_classes(layout):
    layer = open_layer(layout, SLIDE, "cells.graph", 0)
    radius = graph_layers.NODE_SHARE * 60
    assert colour_at(layer, 50, 20) == EDGE
    assert colour_at(layer, 20, 20 - radius) == "round"
    assert colour_at(layer, 80, 20 - radius) == "long"
    assert colour_at(layer, 20, 80 - radius) == NODE
    assert colour_at(layer, 50, 50) is None


def test_nodes_of_a_task_say_what_they_do_to_the_last_output(layout):
    """Of two classes that exclude each other, only the difference of contributions counts."""
    predict(layout, low=[0.0, 2.0, 1.0], high=[3.0, -1.0, 1.1])
    layer = open_layer(layout, SLIDE, "grade.nodes", 1)
    radius = graph_layers.NODE_SHARE * 60
    found = [colour_at(layer, x, y - radius) for x, y in PLACES]
    assert found == ["raises high", "lowers high", "hardly counts"]


def test_all_layers_of_a_slide_are_described_over_the_whole_slide(layout):
    predict(layout, [0.0] * 3, [1.0] * 3)
    found = {(one["task"], one["fold"]): one for one in describe(layout, SLIDE)}
    assert {place: one["title"] for place, one in found.items()} == {
        ("cells.graph", 0): "graph: cells",
        ("grade.nodes", 1): "nodes: grade, fold 1",
    }
    one = found["cells.graph", 0]
    assert one["width"] * one["pixel"] == one["height"] * one["pixel"] == 100


def test_every_class_of_a_layer_has_a_place_in_the_palette(layout):
    predict(layout, [0.0] * 3, [1.0] * 3)
    order = class_order(layout, SLIDE)
    colours = canvas.class_colours(order)
    for one in describe(layout, SLIDE):
        layer = open_layer(layout, SLIDE, one["task"], one["fold"])
        assert set(layer.classes) <= set(order)
        assert masks.picture(layer.tile(layer.count - 1, 0, 0), layer.classes, colours).startswith(b"\x89PNG")


def test_a_graph_that_is_written_anew_is_drawn_anew(layout):
    assert colour_at(open_layer(layout, SLIDE, "cells.graph", 0), 50, 20) == EDGE
    shutil.rmtree(layout.graph("cells", SLIDE).parent)
    write(layout, pairs=NO_EDGES)
    assert colour_at(open_layer(layout, SLIDE, "cells.graph", 0), 50, 20) is None


def test_graphs_without_nodes_are_no_layers(layout):
    write(layout, "empty", np.zeros((0, 2)), NO_EDGES)
    assert [one["task"] for one in describe(layout, SLIDE)] == ["cells.graph"]


@pytest.mark.parametrize("task", ["tissue.graph", "grade.nodes"])
def test_layers_that_do_not_exist_are_refused(task, layout):
    with pytest.raises(KeyError):
        open_layer(layout, SLIDE, task, 0)


def test_a_tile_outside_of_the_slide_is_refused(layout):
    with pytest.raises(KeyError):
        open_layer(layout, SLIDE, "cells.graph", 0).tile(0, 9, 9)
