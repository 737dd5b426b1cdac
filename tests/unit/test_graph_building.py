"""Tests of graphs: nodes and edges of every source, statistics, files, and slides that do not fit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from histomake.base.errors import HistomakeError
from histomake.base.files import write_empty_store
from histomake.base.records.cell_table import CellTableRecord
from histomake.base.records.graph import GraphRecord
from histomake.base.records.record import Quarantined
from histomake.cells.table import MEASURED, METADATA_KEY, schema
from histomake.config import Graph, parse_config
from histomake.graphs.build import STATISTICS, build_graph, connect, describe
from histomake.graphs.edges import lengths, nearest, once, triangulated, within
from histomake.graphs.nodes import NodeFiles, Nodes, structure
from histomake.graphs.regions import cut
from histomake.graphs.store import read_graph
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests import sample_records

CELLS = {"nodes": "cell", "cells": "nuclei"}
PLACES = arrays(np.int64, st.tuples(st.integers(0, 40), st.just(2)), elements=st.integers(0, 12)).map(
    lambda places: places * 32.0
)
MAKERS = {"knn": lambda p: nearest(p, 3), "radius": lambda p: within(p, 70.0), "delaunay": triangulated}


def lattice(columns, rows, step=64.0):
    return np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2) * step


def as_set(pairs, places):
    return {frozenset((tuple(places[a]), tuple(places[b]))) for a, b in pairs}


def test_the_nearest_nodes_on_a_line_are_its_neighbours():
    line = np.stack([np.array([0.0, 1, 3, 6, 10]), np.zeros(5)], axis=1)
    assert nearest(line, 1).tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_nodes_that_are_equally_near_are_all_connected():
    centre = 40
    pairs = nearest(lattice(9, 9), 6)
    assert (pairs == centre).any(1).sum() == 8


def test_many_nodes_in_one_place_are_all_connected():
    assert len(nearest(np.zeros((30, 2)), 2)) == 30 * 29 / 2


def test_a_radius_connects_exactly_the_nodes_within_it():
    places = np.random.default_rng(0).random((60, 2)) * 100
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)
    expected = np.argwhere(np.triu(distance <= 20, 1))
    assert within(places, 20.0).tolist() == expected.tolist()


def test_a_radius_with_too_many_edges_is_refused():
    with pytest.raises(HistomakeError, match="lower max_edge_um"):
        within(np.random.default_rng(0).random((2000, 2)), 10.0)


def test_a_square_with_a_centre_is_triangulated_through_it():
    square = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2], [1, 1]])
    assert len(triangulated(square)) == 8
    assert (triangulated(square) == 4).any(1).sum() == 4


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_nodes_on_a_line_are_connected_along_it(turn):
    line = np.arange(5.0)[:, None] * [[np.cos(turn), np.sin(turn)]]
    assert sorted(map(tuple, triangulated(line))) == [(0, 1), (1, 2), (2, 3), (3, 4)]


@given(PLACES, st.sampled_from(sorted(MAKERS)), st.randoms(use_true_random=False))
def test_edges_are_of_different_nodes_once_and_do_not_depend_on_their_order(places, name, random):
    if name == "delaunay":  # of places on a lattice, a triangulation is not unique
        places = places + np.random.default_rng(0).random(places.shape)
    pairs = MAKERS[name](places)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len({tuple(pair) for pair in pairs}) == len(pairs)
    order = np.array(random.sample(range(len(places)), len(places)), np.int64)
    assert as_set(MAKERS[name](places[order]), places[order]) == as_set(pairs, places)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_edges_do_not_depend_on_translation_and_rotation(name):
    places = np.random.default_rng(3).random((200, 2)) * 1000
    turn = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    moved = places @ turn.T + [5e4, -3e4]
    assert MAKERS[name](moved).tolist() == MAKERS[name](places).tolist()


def test_a_pair_is_kept_once_whatever_its_direction():
    assert once(np.array([[3, 1], [1, 3], [2, 2], [0, 1]])).tolist() == [[0, 1], [1, 3]]


def patches(columns, rows, step=64.0):
    places = lattice(columns, rows, step)
    return Nodes(np.arange(len(places), dtype=np.uint32), *places.T, {}, {}, step=step)


def test_patches_are_adjacent_to_the_eight_around_them():
    nodes = patches(4, 3)
    graph = Graph(nodes="patch", grid="x20", edges="adjacency", features=["position"])
    pairs = connect(nodes, np.stack([nodes.x, nodes.y], axis=1) * 0.5, graph, mpp=0.5)
    assert len(pairs) == 3 * 3 + 4 * 2 + 2 * 3 * 2


def test_edges_above_the_limit_are_left_out():
    nodes = patches(3, 1)
    graph = Graph(nodes="patch", grid="x20", k=2, max_edge_um=40, features=["position"])
    places = np.stack([nodes.x, nodes.y], axis=1) * 0.5
    assert connect(nodes, places, graph, mpp=0.5).tolist() == [[0, 1], [1, 2]]


def test_statistics_count_nodes_edges_and_components():
    pairs = np.array([[0, 1], [1, 2], [3, 4]])
    found = describe(6, pairs, np.array([1.0, 3, 5], np.float32))
    assert found == {
        **{"nodes": 6, "edges": 3, "isolated": 1, "mean_degree": 1.0},
        **{"median_edge_um": 3.0, "components": 3, "largest_component": 0.5},
    }
    assert structure(6, pairs, np.array([1.0, 3, 5], np.float32)).tolist() == [
        *([1, 1], [2, 2], [1, 3], [1, 5], [1, 5], [0, 0])
    ]


def test_regions_are_connected_pieces_of_one_class():
    codes = np.full((40, 60), -1)
    codes[5:25, 5:25], codes[5:25, 25:55], codes[30:38, 5:15], codes[39, 59] = 0, 1, 0, 1
    graph = Graph(nodes="region", task="map", edges="adjacency", features=["class"], region_um=None, min_area_um2=100)
    nodes = cut(codes, graph, ["a", "b"], mpp=2.0, scale=4.0)
    assert nodes.values["class"].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert nodes.values["shape"][:, 0].tolist() == [1600, 2400, 320]
    assert (nodes.x[0], nodes.y[0]) == (15 * 4, 15 * 4)
    assert nodes.touching.tolist() == [[0, 1]]


def test_large_regions_are_cut_along_a_lattice():
    graph = Graph(nodes="region", task="map", edges="adjacency", features=["class"], region_um=40, min_area_um2=0)
    nodes = cut(np.zeros((40, 60), int), graph, ["a"], mpp=2.0, scale=4.0)
    assert len(nodes) == 2 * 3
    assert len(nodes.touching) == 7


def cell_table(tmp_path, count, *, class_names=("immune", "tumour")):
    rng = np.random.default_rng(0)
    classes = pa.array([class_names[i % len(class_names)] if class_names else None for i in range(count)], pa.string())
    columns = {name: rng.random(count) * 1000 for name in MEASURED}
    columns |= {
        "cell_id": np.arange(1, count + 1),
        "class": classes.dictionary_encode(),
        "neighbours_25um": [3] * count,
    }
    kind = schema([25])
    record = CellTableRecord(
        **{"slide_id": "s1", "sha256": "0" * 64, "source": "annotation", "class_names": class_names},
        **{"cells": count, "mpp": 0.5, "scale": 1.0, "neighbours_um": (25,)},
    )
    table = pa.table([pa.array(columns[n]).cast(kind.field(n).type) for n in kind.names], schema=kind)
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: record.encode("t")}), tmp_path / "cells.parquet")
    return NodeFiles(cells=tmp_path / "cells.parquet")


def built(tmp_path, files, *, lost=None, classes=("immune", "tumour"), **settings):
    manifest = tmp_path / "s1.json"
    if not manifest.exists():
        sample_records.manifest("s1", width=2000, height=2000, mpp=0.5).write(manifest)
    graph = Graph(**{**CELLS, "features": ["shape", "class", "position"], **settings})
    out = {"output": tmp_path / "g.arrow", "table": tmp_path / "g.parquet"}
    build_graph(manifest, files, graph, class_names=list(classes), seed=7, lost=lost, **out)
    return read_graph(tmp_path / "g.arrow"), pq.read_table(tmp_path / "g.parquet").to_pylist()[0]


def test_the_graph_of_cells_has_their_features_and_edges(tmp_path):
    found, statistics = built(tmp_path, cell_table(tmp_path, 50), edges="delaunay", max_edge_um=200)
    cells = pq.read_table(tmp_path / "cells.parquet")
    assert isinstance(found.record, GraphRecord)
    assert [group.name for group in found.record.groups] == ["shape", "class", "position"]
    np.testing.assert_allclose(found.vectors("shape")[:, 0], cells["area_um2"].to_numpy())
    assert found.vectors("class")[:2].tolist() == [[1, 0], [0, 1]]
    np.testing.assert_allclose(found.vectors("position").mean(0), 0, atol=1e-6)
    pairs, length = found.edges()
    places = found.places().astype(np.float64) * 0.5
    np.testing.assert_allclose(length, lengths(places, pairs), rtol=1e-5)
    assert length.max() <= 200
    assert statistics == found.record.statistics
    assert (statistics["nodes"], statistics["edges"]) == (50, len(pairs))
    assert found.features().shape == (50, 8)


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("edges", ["knn", "delaunay", "none"])
def test_few_nodes_make_a_graph(tmp_path, count, edges):
    found, statistics = built(tmp_path, cell_table(tmp_path, count), edges=edges)
    assert len(found) == statistics["nodes"] == count
    assert statistics["edges"] == (count == 2 and edges != "none")
    assert any("no node" in text for text in found.record.warnings) == (count == 0)


def test_too_many_nodes_are_sampled_by_the_seed_that_the_record_states(tmp_path):
    files = cell_table(tmp_path, 60)
    found, _ = built(tmp_path, files, max_nodes=20)
    again, _ = built(tmp_path, files, max_nodes=20)
    assert len(found) == 20
    assert (found.record.seed, found.record.found) == (7, 60)
    assert "20 of 60 nodes" in found.record.warnings[0]
    assert found.table.equals(again.table)


def test_sampled_nodes_keep_their_features_and_are_connected_with_each_other(tmp_path):
    files = cell_table(tmp_path, 60)
    every, _ = built(tmp_path, files, features=["shape", "class"])
    every_ids, every_features = every.table["node_id"].to_pylist(), every.features()
    found, _ = built(tmp_path, files, max_nodes=20, edges="delaunay", features=["shape", "class"])
    rows = [every_ids.index(node) for node in found.table["node_id"].to_pylist()]
    assert (found.features() == every_features[rows]).all()
    pairs, length = found.edges()
    places = found.places().astype(float) * found.record.mpp
    assert {tuple(pair) for pair in pairs} == {tuple(pair) for pair in once(triangulated(places))}
    assert length == pytest.approx(np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1), rel=1e-5)


def test_too_many_nodes_are_refused_by_choice(tmp_path):
    lost = []
    found, statistics = built(tmp_path, cell_table(tmp_path, 60), max_nodes=20, too_many="refuse", lost=lost)
    assert isinstance(found.record, Quarantined)
    assert "more than max_nodes" in found.record.detail
    assert lost == [found.record]
    assert len(found) == 0
    assert statistics == dict.fromkeys(STATISTICS)


def test_cells_without_classes_are_refused_where_classes_are_asked_for(tmp_path):
    found, _ = built(tmp_path, cell_table(tmp_path, 5, class_names=()))
    assert isinstance(found.record, Quarantined)
    assert "cells have none" in found.record.detail
    whole, _ = built(tmp_path, cell_table(tmp_path, 5, class_names=()), features=["stain"])
    assert len(whole) == 5


def test_the_graph_of_a_slide_in_quarantine_has_no_nodes_and_its_reason(tmp_path):
    sample_records.lost("s1").write(tmp_path / "s1.json")
    lost = []
    found, _ = built(tmp_path, NodeFiles(), lost=lost)
    assert found.record == sample_records.lost("s1")
    assert lost == []  # its damage was met before, and was told then


def test_a_slide_that_a_segmentation_lost_has_no_graph_of_regions(tmp_path):
    entry = sample_records.lost("s1")
    write_empty_store(tmp_path / "labels.zarr", entry.dump())
    lost = []
    regions = {"nodes": "region", "cells": None, "task": "t", "features": ["class"], "edges": "adjacency"}
    found, _ = built(tmp_path, NodeFiles(labels=tmp_path / "labels.zarr"), lost=lost, **regions)
    assert found.record == entry
    assert lost == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"edges": "radius"}, "radius needs max_edge_um"),
        ({"edges": "adjacency"}, "adjacency of nodes cell"),
        ({"features": ["encoder"]}, "encoder of nodes cell"),
        ({"cells": None}, "cells: nodes cell"),
        ({"encoder": "uni"}, "remove the key"),
        ({"edges": "delaunay", "k": 3}, "only edges knn"),
        ({"region_um": 20}, "only nodes region"),
        ({"nodes": "patch", "cells": None, "grid": "x20", "edges": "delaunay", "features": ["position"]}, "delaunay"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Graph(**{**CELLS, "features": ["shape"], **settings})


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"nodes": "patch", "encoder": "uni", "features": ["encoder"]}, "'uni' is not in the configuration"),
        ({"nodes": "patch", "encoder": "own", "features": ["encoder"]}, "another model in each fold"),
        ({"nodes": "cell", "cells": "nuclei", "features": ["class"]}, "a cascade finds them"),
        ({"nodes": "region", "task": "kind", "features": ["class"]}, "does not segment"),
        ({"nodes": "patch", "grid": "x5", "task": "kind", "features": ["classes"]}, "has grid x20"),
    ],
)
def test_sources_that_do_not_fit_are_refused_before_a_run(graph, message):
    with pytest.raises(HistomakeError, match=message):
        parse_config(
            {
                "annotations": {"classes": {"T": "tumour", "S": "stroma"}},
                "grids": {"x20": {}, "x5": {"mpp": 2}},
                "tasks": {"kind": {"grid": "x20", "target": {"classes": ["stroma", "tumour"]}}},
                "encoders": {"own": {"grid": "x20", "name": "task:kind"}},
                "radhical": {"nuclei": {}},
                "cells": {"nuclei": {"source": "radhical:nuclei"}},
                "graphs": {"g": graph},
            }
        )
