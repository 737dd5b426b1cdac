"""The graph of a slide drawn on its tissue: where nodes and edges are, their colours, and the part that is enlarged."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from histomake.base.records.graph import FeatureGroup, GraphRecord
from histomake.config import Graph
from histomake.graphs.build import NO_EDGES
from histomake.graphs.edges import lengths, nearest
from histomake.graphs.store import read_graph, write_graph
from histomake.pictures import canvas, graph_views
from histomake.pictures.graph_views import DrawnGraph, closest_box, painted

WHITE = 255
BLUE, ORANGE = canvas.PALETTE[:2]


def thumb(height=60, width=80, scale=2.0, left=0, top=0):
    return canvas.Thumbnail(np.full((height, width, 3), WHITE, np.uint8), 1.0, scale, left, top)


def drawn(places, pairs=NO_EDGES, edge_px=None, classes=None, class_names=()):
    places = np.array(places, float)
    classes = np.full(len(places), -1) if classes is None else np.array(classes)
    return DrawnGraph(places, np.array(pairs, np.int64).reshape(-1, 2), edge_px, classes, list(class_names))


def of_colour(count, colour=BLUE):
    return np.tile(np.array(colour, np.uint8), (count, 1))


def write(path, places, classes=None, groups=(("class", ["is_round", "is_long"]),), mpp=0.5):
    places = np.array(places, float)
    pairs = nearest(places, 1)
    vectors = {} if classes is None else {"class": np.array(classes, np.float32)}
    record = GraphRecord(
        slide_id="S",
        sha256="0" * 64,
        mpp=mpp,
        settings=Graph(nodes="cell", cells="nuclei", features=["class"]).dump(),
        groups=[FeatureGroup(name=name, values=values) for name, values in groups],
        identity="i",
        found=len(places),
    )
    ids = np.arange(len(places), dtype=np.uint32)
    write_graph(path, record, (ids, *places.T), (pairs, lengths(places * mpp, pairs)), vectors)
    return read_graph(path)


def test_a_node_is_drawn_around_its_place_in_its_colour():
    pixels = painted(thumb(), drawn([[40, 20], [120, 100]], [[0, 1]], 40.0), np.array([BLUE, ORANGE], np.uint8))
    assert tuple(pixels[10, 20]) == BLUE
    assert tuple(pixels[50, 60]) == ORANGE
    coloured = np.argwhere((pixels == BLUE).all(2))
    assert coloured.mean(0) == pytest.approx([9.5, 19.5], abs=0.6)


def test_an_edge_is_a_line_between_its_nodes():
    pixels = painted(thumb(), drawn([[20, 61], [140, 61]], [[0, 1]], 40.0), of_colour(2))
    assert (pixels[30, 20:60] < 200).all()
    assert (pixels[:20] == WHITE).all()


def test_of_a_part_of_a_slide_only_what_is_there_is_drawn():
    part = thumb(scale=1.0, left=100, top=100)
    pixels = painted(part, drawn([[110, 110], [500, 500]], [[0, 1]], 20.0), of_colour(2))
    assert tuple(pixels[10, 10]) == BLUE
    # The edge that leaves the part is drawn as far as its border.
    assert (np.diagonal(pixels[15:55, 15:55, 0]) < 250).all()


def test_the_pixels_of_the_thumbnail_are_left_as_they_are():
    slide = thumb()
    painted(slide, drawn([[40, 20]]), of_colour(1))
    assert (slide.pixels == WHITE).all()


def test_a_node_has_the_class_of_its_highest_value_and_none_without_any(tmp_path):
    graph = write(tmp_path / "S.arrow", [[0, 0], [10, 0], [20, 0]], [[1, 0], [0, 1], [0, 0]])
    found = DrawnGraph.of(graph)
    assert found.class_names == ["round", "long"]
    assert found.classes.tolist() == [0, 1, -1]


def test_the_length_of_edges_is_in_pixels_of_the_slide(tmp_path):
    graph = write(tmp_path / "S.arrow", [[0, 0], [10, 0]], [[1, 0], [0, 1]])
    assert DrawnGraph.of(graph).edge_px == pytest.approx(10)


def test_the_part_that_is_enlarged_holds_the_nodes_of_most_attention():
    rng = np.random.default_rng(1)
    places = rng.random((1000, 2)) * [20_000, 10_000]
    attention = np.where((places[:, 0] > 15_000) & (places[:, 1] > 8_000), 1.0, 0.001)
    x, y, width, height = closest_box(drawn(places, edge_px=50.0), attention, width=20_000, height=10_000)
    inside = ((places >= [x, y]) & (places < [x + width, y + height])).all(1)
    assert attention[inside].sum() > 0.1 * attention.sum()
    assert (width, height) <= (1584, 1584)
    assert x + width <= 20_000
    assert y + height <= 10_000


def test_without_edges_no_part_is_enlarged():
    assert closest_box(drawn([[5, 5]]), np.ones(1), width=10, height=10) is None


class Slide:
    """Replacement for a reader: a white slide of 1 µm per pixel."""

    mpp, width, height = 1.0, 8000, 4000

    def read(self, x, y, size, mpp):
        return np.full((size[1], size[0], 3), WHITE, np.uint8)

    def read_whole(self, mpp):
        return self.read(0, 0, (round(self.width / mpp), round(self.height / mpp)), mpp)


def findings(graph, contributions):
    columns = {f"contribution_{name}": pa.array(values, pa.float32()) for name, values in contributions.items()}
    count = len(graph)
    table = pa.table({"node_id": np.arange(count), "attention": np.full(count, 1 / max(count, 1)), **columns})
    bag = SimpleNamespace(graph=SimpleNamespace(name="cells"))
    return SimpleNamespace(
        reader=Slide(),
        graph=graph,
        nodes=table,
        predictions=table,
        is_binary=False,
        classes=list(contributions),
        model=SimpleNamespace(bag=bag),
    )


def test_the_view_has_a_panel_of_classes_one_per_output_and_a_part_of_a_large_slide(tmp_path):
    places = np.random.default_rng(1).random((300, 2)) * [8000, 4000]
    graph = write(tmp_path / "S.arrow", places, np.eye(2)[np.arange(300) % 2], mpp=1.0)
    found = findings(graph, {"grade": np.linspace(-1, 1, 300), "stage": np.zeros(300)})
    large = thumb(height=100, width=200, scale=40.0)
    panels = graph_views.graph(found, large)
    assert len(panels) == 4
    assert max(panels[-1].shape) == graph_views.CLOSE_PX


def test_a_slide_without_predicted_nodes_is_drawn_with_a_note(tmp_path):
    graph = write(tmp_path / "S.arrow", np.zeros((0, 2)), np.zeros((0, 2)))
    (panel,) = graph_views.graph(findings(graph, {"grade": []}), thumb())
    assert panel.shape[0] > thumb().pixels.shape[0]


def test_the_legend_of_a_part_counts_what_is_in_it(monkeypatch, tmp_path):
    titles = []
    monkeypatch.setattr(graph_views.panel, "panel", lambda pixels, _, title, legend: titles.append([title, *legend]))
    found = DrawnGraph.of(write(tmp_path / "S.arrow", [[10, 10], [20, 10], [900, 900]], [[1, 0], [0, 1], [0, 1]]))
    graph_views._by_class(thumb(), found, "Here")
    assert titles == [["Here: 2 nodes, 1 edges", "round: 1", "long: 1"]]


def test_a_graph_of_no_task_is_drawn_on_its_slide_with_its_densest_part(tmp_path):
    rng = np.random.default_rng(1)
    places = np.concatenate([rng.random((300, 2)) * [8000, 4000], rng.random((100, 2)) * 500 + [6000, 3000]])
    graph = write(tmp_path / "S.arrow", places, np.eye(2)[np.arange(400) % 2], mpp=1.0)
    picture = graph_views.graph_alone(Slide(), graph, name="cells", mpp=40.0)
    # The slide is 200 x 100 pixels, and its part is CLOSE_PX.
    assert picture.shape[1] > 200 + graph_views.CLOSE_PX
    assert (picture == BLUE).all(2).sum() > 1000


def test_a_graph_of_no_task_without_a_node_is_the_slide_with_a_note(tmp_path):
    graph = write(tmp_path / "S.arrow", np.zeros((0, 2)), np.zeros((0, 2)))
    picture = graph_views.graph_alone(Slide(), graph, name="cells", mpp=40.0)
    assert not (picture == BLUE).all(2).any()


@pytest.mark.parametrize("count", [1, 2])
def test_graphs_of_hardly_any_node_are_drawn(count, tmp_path):
    graph = write(tmp_path / "S.arrow", np.arange(2.0 * count).reshape(-1, 2), np.eye(2)[:count])
    assert graph_views.graph(findings(graph, {"grade": np.ones(count)}), thumb())
