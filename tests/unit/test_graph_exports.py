"""Graphs for other programs: PyTorch Geometric and QuPath."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import shapely
import torch
from histomake import cli
from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.base.records.graph import FeatureGroup, GraphRecord
from histomake.base.records.model_card import BagCard, GraphCard
from histomake.base.tables import write_table
from histomake.config import Gnn, Graph
from histomake.graphs.build import NO_EDGES
from histomake.graphs.edges import lengths, nearest
from histomake.graphs.exports import export_graph, load_data
from histomake.graphs.store import read_graph, write_graph
from histomake.pictures.qupath_graphs import write_graph_objects
from safetensors.torch import save_file

from tests import sample_records

MPP = 0.5
PLACES = np.array([[10.0, 20.0], [30.0, 20.0], [10.0, 60.0]])
CLASSES = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
AREAS = np.array([[5.0], [6.0], [7.0]], np.float32)
PAIRS = np.array([[0, 1], [0, 2]])


def write(path, places=PLACES, pairs=PAIRS, vectors=None, groups=None):
    vectors = {"shape": AREAS, "class": CLASSES} if vectors is None else vectors
    groups = {"shape": ["area_um2"], "class": ["is_round", "is_long"]} if groups is None else groups
    record = GraphRecord(
        slide_id=path.stem,
        sha256="ab" * 32,
        mpp=MPP,
        settings=Graph(nodes="cell", cells="nuclei", features=["shape"]).dump(),
        groups=[FeatureGroup(name=name, values=values) for name, values in groups.items()],
        identity="i",
        found=len(places),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.arange(len(places), dtype=np.uint32) + 7
    write_graph(path, record, (ids, *places.T), (pairs, lengths(places * MPP, pairs)), vectors)
    return read_graph(path)


def predicted(ids=(7, 8, 9)):
    columns = {"attention": [0.5, 0.3, 0.2], "contribution_low": [1, 2, 3], "contribution_high": [4, 5, 6]}
    floats = {name: pa.array(values, pa.float32()) for name, values in columns.items()}
    return pa.table({"node_id": pa.array(ids, pa.uint32()), **floats})


def test_an_exported_graph_is_read_as_data_of_torch_geometric(tmp_path):
    export_graph(write(tmp_path / "S.arrow"), tmp_path / "S.safetensors", nodes=predicted())
    data = load_data(tmp_path / "S.safetensors")
    assert data.validate()
    assert (data.num_nodes, data.num_edges, data.num_node_features) == (3, 4, 3)
    assert data.is_undirected()
    assert data.edge_index.tolist() == [[0, 0, 1, 2], [1, 2, 0, 0]]
    assert data.edge_attr[:, 0].tolist() == [10, 20, 10, 20]
    assert data.pos.tolist() == [[5, 10], [15, 10], [5, 30]]
    assert torch.equal(data.x, torch.tensor([[5.0, 1, 0], [6, 0, 1], [7, 0, 0]]))
    assert data.feature_names == ["area_um2", "is_round", "is_long"]
    assert (data.slide_id, data.mpp, data.outputs) == ("S", MPP, ["low", "high"])
    assert data.node_id.tolist() == [7, 8, 9]
    assert data.contributions[:, 1].tolist() == [4, 5, 6]
    assert data.attention.tolist() == pytest.approx([0.5, 0.3, 0.2])


def test_exported_graphs_make_a_batch(tmp_path):
    from torch_geometric.data import Batch

    export_graph(write(tmp_path / "S.arrow"), tmp_path / "S.safetensors")
    data = load_data(tmp_path / "S.safetensors")
    assert Batch.from_data_list([data, data]).edge_index.max() == 5


@pytest.mark.parametrize("count", [0, 1])
def test_graphs_of_hardly_any_node_are_exported(count, tmp_path):
    few = {"shape": AREAS[:count], "class": CLASSES[:count]}
    graph = write(tmp_path / "S.arrow", PLACES[:count], NO_EDGES, few)
    export_graph(graph, tmp_path / "S.safetensors")
    write_graph_objects(graph, tmp_path / "S.geojson")
    data = load_data(tmp_path / "S.safetensors")
    assert (data.num_nodes, data.num_edges, data.num_node_features) == (count, 0, 3)
    assert len(json.loads((tmp_path / "S.geojson").read_text())["features"]) == count


def test_other_files_are_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"no tensors")
    with pytest.raises(HistomakeError, match="is no graph that this version exports"):
        load_data(tmp_path / "other.safetensors")
    with pytest.raises(HistomakeError, match="is no safetensors file"):
        load_data(tmp_path / "damaged.safetensors")


def features_of(path):
    return json.loads(path.read_text())["features"]


def test_nodes_are_detections_around_their_places_with_measurements(tmp_path):
    write_graph_objects(write(tmp_path / "S.arrow"), tmp_path / "S.geojson", nodes=predicted())
    first, second, third, _ = features_of(tmp_path / "S.geojson")
    assert first["properties"]["objectType"] == "detection"
    assert first["properties"]["classification"]["name"] == "round"
    assert second["properties"]["classification"]["name"] == "long"
    assert "classification" not in third["properties"]
    centre = shapely.geometry.shape(second["geometry"]).centroid
    assert (centre.x, centre.y) == pytest.approx((30, 20))
    measured = first["properties"]["measurements"]
    assert (measured["area_um2"], measured["edges"], measured["node_id"]) == (5, 2, 7)
    assert (measured["attention"], measured["contribution: high"]) == (0.5, 4)


def test_edges_are_one_annotation_of_lines(tmp_path):
    write_graph_objects(write(tmp_path / "S.arrow"), tmp_path / "S.geojson")
    *_, edges = features_of(tmp_path / "S.geojson")
    assert edges["properties"]["objectType"] == "annotation"
    assert edges["geometry"]["type"] == "MultiLineString"
    assert edges["geometry"]["coordinates"] == [[[10, 20], [30, 20]], [[10, 20], [10, 60]]]
    assert len({feature["id"] for feature in features_of(tmp_path / "S.geojson")}) == 4


def test_the_vectors_of_encoders_are_no_measurements(tmp_path):
    vectors, names = {"encoder": np.zeros((3, 512), np.float32)}, {"encoder": [f"encoder_{i}" for i in range(512)]}
    write_graph_objects(write(tmp_path / "S.arrow", vectors=vectors, groups=names), tmp_path / "S.geojson")
    assert set(features_of(tmp_path / "S.geojson")[0]["properties"]["measurements"]) == {"edges", "node_id"}


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    """Graphs of three slides, of which one has been lost and one predicted."""
    layout = Layout(tmp_path / "results")
    for slide in ("S1", "S2"):
        write(layout.graph("cells", slide))
    nothing = (np.zeros(0, np.uint32), np.zeros(0), np.zeros(0)), (NO_EDGES, np.zeros(0, np.float32)), {}
    write_graph(layout.graph("cells", "S3"), sample_records.lost("S3", stage="graph"), *nothing)
    graph = GraphCard(name="cells", identity="i", groups={}, encoder=None, gnn=Gnn().dump(), fuse=None, ablations=[])
    card = sample_records.model_card(bag=BagCard(level="slide", bag={}, pooling={}, usual=[0.5], graph=graph))
    layout.description("grade", 1).parent.mkdir(parents=True)
    card.write(layout.description("grade", 1))
    layout.predicted_nodes("grade", 1, "S2").parent.mkdir(parents=True)
    write_table(predicted(), layout.predicted_nodes("grade", 1, "S2"))
    return layout


def export(results, folder, *options):
    return cli.main(["export-graph", str(folder), *options, "--results", str(results.results)])


def test_the_graphs_of_all_slides_are_exported_and_lost_ones_named(results, tmp_path, capsys):
    assert export(results, tmp_path / "out", "--graph", "cells") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["S1.safetensors", "S2.safetensors"]
    assert "left out: S3" in capsys.readouterr().out


def test_the_graphs_of_a_task_have_its_contributions(results, tmp_path):
    assert export(results, tmp_path / "out", "--task", "grade") == 0
    assert load_data(tmp_path / "out/S2.safetensors").outputs == ["low", "high"]
    assert not (tmp_path / "out/S1.safetensors").exists()


def test_one_slide_is_exported_for_qupath(results, tmp_path):
    assert export(results, tmp_path / "out", "--graph", "cells", "--slide", "S2", "--format", "geojson") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["S2.geojson"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--graph", "cells", "--slide", "S9"], "no graph to export of S9"),
        (["--graph", "tissue"], "has no graph of tissue"),
        (["--task", "grade", "--fold", "3"], "has no graph of grade"),
        (["--graph", "cells", "--fold", "1"], "give --task"),
    ],
)
def test_what_cannot_be_exported_is_said(options, message, results, tmp_path, capsys):
    assert export(results, tmp_path / "out", *options) == 1
    assert message in capsys.readouterr().err


def test_predictions_of_another_graph_are_refused(results, tmp_path, capsys):
    write_table(predicted(ids=(1, 2, 3)), results.predicted_nodes("grade", 1, "S2"))
    assert export(results, tmp_path / "out", "--task", "grade") == 1
    assert "predictions of other nodes" in capsys.readouterr().err


def test_a_graph_of_many_nodes_is_exported_whole(tmp_path):
    places = np.random.default_rng(1).random((5000, 2)) * 10_000
    pairs = nearest(places, 6)
    vectors = {"shape": np.zeros((5000, 1), np.float32)}
    graph = write(tmp_path / "S.arrow", places, pairs, vectors, {"shape": ["area_um2"]})
    write_graph_objects(graph, tmp_path / "S.geojson")
    assert len(features_of(tmp_path / "S.geojson")) == 5001
