"""Tasks on graphs: training with ablations, prediction of slides and patients, evaluation, and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from arranged_graphs import write_arranged
from histomake.base.records.graph import EDGE_ABLATIONS
from histomake.base.records.manifest import Manifest
from histomake.base.records.model_card import ModelCard
from histomake.evaluate.bags import baselines
from histomake.evaluate.items import SlidePrediction
from histomake.graphs.predict import load_graph_model, predict_graph
from histomake.graphs.training import train_graphs
from safetensors.torch import load_file
from small_cohort import GRID_NAME, SIDE, build_cohort, changed_task

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
    predictor = load_graph_model(learned / "model")
    table = predict_graph(predictor, slides[10], (), files)
    sums = [table[f"contribution_{name}"].to_numpy().sum() for name in ("low", "high")]
    scores = torch.tensor(sums).softmax(0).tolist()
    assert scores == pytest.approx([table[f"score_{name}"][0].as_py() for name in ("low", "high")], abs=1e-4)


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
        SlidePrediction(slide.slide_id, slide.patient_id, 0, predict_graph(predictor, slide, (), files), 0.5, {})
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
