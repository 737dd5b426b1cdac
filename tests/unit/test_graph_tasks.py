"""Tasks on graphs: training with ablations, prediction of slides and patients, evaluation, and refusals."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
import train_graphs_killed
from histomake.base.errors import HistomakeError
from histomake.base.records.bag_probe import probe_of
from histomake.base.records.graph import EDGE_ABLATIONS
from histomake.base.records.manifest import Manifest
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import Quarantined
from histomake.base.tables import lost_slide
from histomake.evaluate.bags import baselines
from histomake.evaluate.items import SlidePrediction
from histomake.graphs.ablation import rewire, rewired
from histomake.graphs.batch import GraphBatch
from histomake.graphs.build import NO_EDGES
from histomake.graphs.edges import nearest
from histomake.graphs.index import index_graphs
from histomake.graphs.predict import load_graph_model, predict_graph
from histomake.graphs.store import read_graph, write_graph
from histomake.graphs.training import train_graphs
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_cohort import GRID_NAME, SIDE, build_cohort, changed_task

from tests import sample_records
from tests.arranged_graphs import write_arranged

TARGETS = {
    "classification": {"source": "sheet", "column": "grade", "classes": ["low", "high"]},
    "multi_label": {"source": "sheet", "column": "grade", "classes": ["low", "high"]},
    "regression": {"source": "sheet", "column": "share"},
    "survival": {"source": "sheet", "time": "months", "event": "died"},
}
SHORT = {"steps": 60, "batch": 4, "validate_every": 20, "learning_rate": 0.01}


def task(kind="classification", **values):
    told = {"kind": kind, "grid": GRID_NAME, "graph": "nuclei", "level": "slide", "target": TARGETS[kind]}
    told |= {"train": SHORT, "gnn": {"layers": 3, "hidden": 16, "dropout": 0.0}}
    return changed_task(told, values)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def slides(root):
    """Twelve slides, of which every second has nuclei in clusters and the higher grade."""
    found = []
    for number, entry in enumerate(build_cohort(root, 12)):
        high = number % 2
        labels = {"grade": ["low", "high"][high], "share": f"{high + 0.01 * number:.2f}"}
        labels |= {"months": str(20 - 10 * high + number / 10), "died": "1"}
        found.append(replace(entry, labels=labels))
    return found


@pytest.fixture(scope="module")
def files(slides, root):
    return {entry.slide_id: graph_of(entry, root, number) for number, entry in enumerate(slides)}


def graph_of(entry, folder, seed, **changes):
    path = folder / f"{entry.slide_id}.arrow"
    told = {"nodes": 200, "extent": float(SIDE), "clustered": entry.labels.get("grade") == "high"} | changes
    sha256 = Manifest.read(entry.manifest).sha256
    write_arranged(path, entry.slide_id, np.random.default_rng(seed), sha256=sha256, **told)
    return path


def trained(settings, slides, files, folder):
    return train_graphs(
        settings,
        train=slides[:6],
        val=slides[6:10],
        files=files,
        output=folder / "model",
        state=folder / "state",
        seed=1,
        threads=1,
    )


def predicted(folder, entry, files, *others):
    return predicted_with_nodes(folder, entry, files, *others).patches


def predicted_with_nodes(folder, entry, files, *others):
    return predict_graph(load_graph_model(folder / "model"), entry, others, files)


@pytest.fixture(scope="module")
def learned(slides, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    trained(task(), slides, files, folder)
    return folder


def test_a_network_tells_arrangements_that_their_mean_features_do_not(learned, slides, files):
    tables = [predicted(learned, slide, files) for slide in slides[10:]]
    low, high = (table["score_high"][0].as_py() for table in tables)
    linear = [table["linear_high"][0].as_py() for table in tables]
    assert low < 0.3 < 0.7 < high
    assert max(abs(score - 0.5) for score in linear) < 0.2


def test_without_edges_nothing_is_known_of_arrangements(learned, slides, files):
    table = predicted(learned, slides[11], files)
    assert abs(table["without_edges_high"][0].as_py() - 0.5) < 0.2


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("level", ["slide", "patient"])
def test_every_kind_and_level_is_learned_and_predicted(kind, level, slides, files, tmp_path):
    few = {"steps": 2, "validate_every": 2, "batch": 2}
    card = trained(task(kind, level=level, train=few), slides, files, tmp_path)
    table = predicted(tmp_path, slides[11], files)
    assert card.bag.level == level
    assert table.num_rows
    assert table["attention"].to_numpy().sum() == pytest.approx(1, abs=1e-4)
    for name in card.class_names:
        for column in ("score", "contribution", "linear", *EDGE_ABLATIONS):
            assert np.isfinite(table[f"{column}_{name}"].to_numpy()).all()


def test_the_card_states_graph_network_and_ablations(learned):
    card = ModelCard.read(learned / "model/model.json")
    assert card.bag.graph.name == "nuclei"
    assert card.bag.graph.groups == {"class": 2}
    assert card.bag.graph.gnn["name"] == "sagpool"
    assert card.bag.graph.ablations == list(EDGE_ABLATIONS)


def test_contributions_of_patches_sum_to_the_logits(learned, slides, files):
    table = predicted(learned, slides[10], files)
    sums = [table[f"contribution_{name}"].to_numpy().sum() for name in ("low", "high")]
    scores = torch.tensor(sums).softmax(0).tolist()
    assert scores == pytest.approx([table[f"score_{name}"][0].as_py() for name in ("low", "high")], abs=1e-4)


def test_nodes_have_their_part_of_what_patches_have(learned, slides, files):
    patches, nodes = predicted_with_nodes(learned, slides[10], files)
    assert nodes["node_id"].to_pylist() == read_graph(files[slides[10].slide_id]).table["node_id"].to_pylist()
    for column in ("attention", "contribution_low", "contribution_high"):
        sums = [table[column].to_numpy().sum() for table in (patches, nodes)]
        assert sums[0] == pytest.approx(sums[1], abs=1e-4)


def test_without_the_nodes_of_highest_attention_scores_change_more_than_without_random_ones(learned, slides, files):
    found = [probe_of(predicted(learned, slide, files)) for slide in slides]
    assert np.mean([p.attention.insertion - p.random.insertion for p in found]) < 0.1
    assert np.mean([p.attention.deletion for p in found]) > np.mean([p.random.deletion for p in found])


def test_a_part_of_a_graph_has_the_edges_between_its_nodes():
    features = torch.arange(8.0).reshape(4, 2)
    graph = GraphBatch.of([features], [torch.tensor([[0, 1], [1, 3], [2, 3]])])
    part = graph.part(torch.tensor([1, 2, 3]))
    assert part.sizes == [3]
    assert part.features.tolist() == [[2, 3], [4, 5], [6, 7]]
    assert part.edges.tolist() == [[0, 1, 2, 2], [2, 2, 0, 1]]


def test_several_columns_are_learned_at_once_and_a_slide_may_lack_some(slides, files, tmp_path):
    given = [
        replace(slide, labels=slide.labels | {"other": "" if number == 0 else str(1 - float(slide.labels["share"]))})
        for number, slide in enumerate(slides)
    ]
    several = {"column": None, "columns": ["share", "other"]}
    card = trained(task("regression", target=several), given, files, tmp_path)
    low, high = (predicted(tmp_path, slide, files) for slide in given[10:])
    assert card.class_names == ["share", "other"]
    assert high["score_share"][0].as_py() > low["score_share"][0].as_py()
    assert high["score_other"][0].as_py() < low["score_other"][0].as_py()
    assert predicted(tmp_path, given[0], files)["target_other"][0].as_py() is None


def test_attention_of_a_patch_is_that_of_the_nodes_in_it(learned, slides, files, tmp_path):
    """Of a graph whose nodes all lie in one corner, only patches of that corner have attention."""
    entry = slides[10]
    table = predicted(learned, entry, files | {entry.slide_id: graph_of(entry, tmp_path, 3, extent=192.0)})
    inside = (table["x"].to_numpy() < 192) & (table["y"].to_numpy() < 192)
    assert table["attention"].to_numpy()[~inside].max() == 0


def test_slides_of_a_patient_have_the_same_scores_and_share_attention(slides, files, tmp_path):
    together = [replace(slide, patient_id="one", labels=slides[10].labels) for slide in slides[10:]]
    trained(task(level="patient", train={"steps": 2, "validate_every": 2}), slides, files, tmp_path)
    first = predicted(tmp_path, together[0], files, together[1])
    second = predicted(tmp_path, together[1], files, together[0])
    assert first["score_high"][0] == second["score_high"][0]
    total = sum(table["attention"].to_numpy().sum() for table in (first, second))
    assert total == pytest.approx(1, abs=1e-4)


def test_ablations_are_measured_on_the_same_slides(learned, slides, files):
    predictor = load_graph_model(learned / "model")
    predictions = [
        SlidePrediction(slide.slide_id, slide.patient_id, 0, predicted(learned, slide, files), 0.5, {})
        for slide in slides
    ]
    usual = {0: predictor.card.bag.usual}
    found = baselines(predictions, predictor.class_names, usual)
    assert set(found) == {"mean_features", "without_edges", "rewired_edges", "usual_target"}


def test_the_same_seed_gives_the_same_weights(learned, slides, files, tmp_path):
    trained(task(), slides, files, tmp_path)
    first, second = (load_file(folder / "model/model.safetensors") for folder in (learned, tmp_path))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_killed_ten_times_ends_with_the_weights_of_an_uninterrupted_run(slides, files, tmp_path):
    settings = task(train={"steps": 150, "validate_every": 50, "checkpoint_minutes": 1e-4})
    train_graphs_killed.main(settings.dump(), slides[:6], files, tmp_path / "whole")
    reached = train_graphs_killed.kill_repeatedly(settings, slides[:6], files, tmp_path / "killed", kills=10)
    assert sorted(set(reached)) == reached
    assert not (tmp_path / "killed/model/model.safetensors").exists()
    train_graphs_killed.main(settings.dump(), slides[:6], files, tmp_path / "killed")
    whole, stopped = (tmp_path / name / "model/model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == stopped.read_bytes()


def test_the_nodes_as_a_bag_can_be_a_part_of_the_network(slides, files, tmp_path):
    changes = {"fuse": "mil", "pooling": {"embed": 8, "hidden": [8], "dropout": 0.0}}
    card = trained(task(train={"steps": 2, "validate_every": 2}, **changes), slides, files, tmp_path)
    assert card.bag.graph.fuse == "mil"
    assert any(name.startswith("layers.bag.") for name in load_file(tmp_path / "model/model.safetensors"))
    assert predicted(tmp_path, slides[10], files).num_rows


def with_other_record(path, to, **changes):
    graph = read_graph(path)
    links, x, y = graph.edges(), *graph.places().T
    ids = graph.table["node_id"].to_numpy()
    write_graph(to, msgspec.structs.replace(graph.record, **changes), (ids, x, y), links, {"class": graph.features()})
    return to


def test_graphs_of_other_settings_are_neither_trained_on_nor_predicted(learned, slides, files, tmp_path):
    name = slides[10].slide_id
    other = files | {name: with_other_record(files[name], tmp_path / "other.arrow", identity="other")}
    with pytest.raises(HistomakeError, match=f"slide {name}: its graph nuclei has other settings"):
        predicted(learned, slides[10], other)
    with pytest.raises(HistomakeError, match="other settings or another encoder"):
        trained(task(), [slides[10], *slides[:9]], other, tmp_path)


def lost_graph(slide_id, path):
    write_graph(
        path,
        sample_records.lost(slide_id, stage="graph"),
        (np.zeros(0, np.uint32), np.zeros(0), np.zeros(0)),
        (NO_EDGES, np.zeros(0, np.float32)),
        {},
    )
    return path


def test_a_slide_that_was_lost_when_its_graph_was_made_is_left_out_and_named(slides, files, tmp_path):
    name = slides[0].slide_id
    lost = files | {name: lost_graph(name, tmp_path / "lost.arrow")}
    card = trained(task(train={"steps": 2, "validate_every": 2}), slides, lost, tmp_path)
    assert [entry.slide_id for entry in card.left_out] == [name]
    for table in predicted_with_nodes(tmp_path, slides[0], lost):
        assert table.num_rows == 0
        assert isinstance(lost_slide(table), Quarantined)


@pytest.mark.parametrize("nodes", [0, 1, 2])
def test_slides_with_hardly_any_node(nodes, learned, slides, files, tmp_path):
    entry = slides[10]
    table = predicted(learned, entry, files | {entry.slide_id: graph_of(entry, tmp_path, 1, nodes=nodes)})
    assert bool(table.num_rows) == bool(nodes)
    assert np.isfinite(table["score_high"].to_numpy()).all()


def test_a_slide_without_nodes_takes_no_part_in_training(slides, files, tmp_path, caplog):
    name = slides[0].slide_id
    empty = files | {name: graph_of(slides[0], tmp_path, 1, nodes=0)}
    trained(task(train={"steps": 2, "validate_every": 2}), slides, empty, tmp_path)
    assert f"slide {name} has a graph without nodes" in caplog.text


def test_training_without_any_node_is_refused(slides, tmp_path):
    none = {slide.slide_id: graph_of(slide, tmp_path, 1, nodes=0) for slide in slides}
    with pytest.raises(HistomakeError, match="no slide has a graph with nodes"):
        trained(task(), slides, none, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "patch"}, "graph: a graph is of a whole slide"),
        ({"features": "a"}, "features: a task on graphs has the features of their nodes"),
        ({"bag": {"size": 4}}, "bag: a task on graphs learns from all nodes"),
        ({"pooling": {"embed": 4}}, "pooling: only with fuse: mil"),
        ({"fuse": "mil", "pooling": {"name": "clam"}}, "pooling.name: fuse: mil needs attention or gated"),
        ({"gnn": {"name": "gcn", "ratio": 0.3}}, "gcn drops no nodes"),
        ({"gnn": {"ratio": 0.3, "min_score": 0.1}}, "min_score takes its place"),
        ({"model": {"name": "resnet10t"}}, "model: a task on graphs has no model"),
        ({"train": {"audit": True}}, "audit"),
        ({"graph": None}, "gnn and fuse need graph"),
    ],
)
def test_settings_that_a_task_on_graphs_cannot_have_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        task(**changes)


PAIRS = st.sets(st.tuples(st.integers(0, 15), st.integers(0, 15)).filter(lambda pair: pair[0] < pair[1]), max_size=60)


@given(PAIRS, st.integers(0, 2**32))
def test_rewired_edges_are_of_different_nodes_once_and_every_node_keeps_its_number(pairs, seed):
    before = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    after = rewire(before, np.random.default_rng(seed))
    assert (after[:, 0] < after[:, 1]).all()
    assert len({tuple(pair) for pair in after}) == len(before)
    assert (np.bincount(after.ravel(), minlength=16) == np.bincount(before.ravel(), minlength=16)).all()


def test_rewiring_leaves_hardly_any_edge_where_it_was():
    rng = np.random.default_rng(1)
    before = nearest(rng.random((500, 2)), 6)
    after = rewire(before, rng)
    assert len({tuple(p) for p in before} & {tuple(p) for p in after}) < 0.05 * len(before)


def test_rewired_edges_are_the_same_in_training_and_prediction(slides, files):
    settings = task()
    both, alone = (
        rewired(index_graphs(some, files, kind=settings.kind, target=settings.target, level="slide"), seed=1)
        for some in (slides[:3], slides[:1])
    )
    name = slides[0].slide_id
    assert (both.links[name] == alone.links[name]).all()
