"""Prediction: complete, in eval mode, and refused for files that are not a model."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from histomake.base.errors import HistomakeError
from histomake.base.files import write_json
from histomake.base.layout import Layout
from histomake.config import Grid, Task
from histomake.learn.data.batches import FixedBatches
from histomake.learn.inference.predict import load_model, predict_slide
from histomake.learn.train import train
from histomake.patch.table import read_table
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_cohort import CLASSES, GRID_NAME, build_cohort, build_quarantined, build_slide


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A small trained model and the slides it has not seen."""
    root = tmp_path_factory.mktemp("trained")
    entries = build_cohort(root, 4)
    options = {"steps": 30, "batch": 8, "validate_every": 30, "workers": 0, "learning_rate": 1e-3}
    task = Task(grid=GRID_NAME, target={"classes": CLASSES}, model={"name": "test_resnet"}, train=options)
    places = {"output": root / "model", "state": root / "state"}
    train(task, train=entries[:2], val=entries[2:3], class_names=CLASSES, **places, seed=0, threads=1)
    return root / "model", entries[3]


def test_every_tissue_patch_gets_a_score_and_no_other(trained) -> None:
    model, entry = trained
    table = predict_slide(load_model(model), entry, batch=16, threads=1)
    patches, _ = read_table(entry.table)
    usable = patches.filter([str(e) == "" for e in patches["excluded"].to_pylist()])
    assert table["patch_id"].to_pylist() == usable["patch_id"].to_pylist()
    assert table["x"].to_pylist() == usable["x"].to_pylist()
    scores = np.stack([table[f"score_{name}"].to_numpy() for name in CLASSES], axis=1)
    assert scores.sum(1) == pytest.approx(np.ones(len(scores)), abs=1e-5)


def test_textures_of_an_unseen_slide_are_classified(trained) -> None:
    model, entry = trained
    table = predict_slide(load_model(model), entry, batch=16, threads=1)
    right = [p == t for p, t in zip(table["predicted"].to_pylist(), table["label"].to_pylist(), strict=True)]
    assert np.mean(right) > 0.9


def test_scores_do_not_depend_on_the_batch(trained) -> None:
    model, entry = trained
    one, many = (predict_slide(load_model(model), entry, batch=batch, threads=1) for batch in (1, 32))
    for name in CLASSES:
        assert one[f"score_{name}"].to_numpy() == pytest.approx(many[f"score_{name}"].to_numpy(), abs=1e-5)


def test_scores_do_not_depend_on_which_patches_share_a_batch(trained) -> None:
    predictor = load_model(trained[0])
    images = torch.randint(0, 255, (6, 64, 64, 3), dtype=torch.uint8)
    together, reversed_ = predictor.scores(images), predictor.scores(images.flip(0))[::-1]
    assert together == pytest.approx(reversed_, abs=1e-5)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 16))
def test_batches_hold_every_patch_once_in_order_and_never_two_groups(groups: list[int], batch: int) -> None:
    reader = SimpleNamespace(patches=range(sum(groups)))
    spans = FixedBatches(reader, batch=batch, groups=groups).spans
    assert [i for span in spans for i in range(*span)] == list(range(sum(groups)))
    assert all(0 < end - start <= batch for start, end in spans)
    group = np.repeat(np.arange(len(groups)), groups)
    assert all(group[start] == group[end - 1] for start, end in spans)


def test_threshold_of_the_model_decides(trained) -> None:
    loaded = load_model(trained[0])
    predictor = replace(loaded, card=msgspec.structs.replace(loaded.card, threshold=0.7))
    assert predictor.decide(np.array([[0.4, 0.6], [0.2, 0.8]])).tolist() == [0, 1]


def test_embedding_has_one_vector_per_patch(trained) -> None:
    vectors = load_model(trained[0]).embed(torch.zeros(3, 64, 64, 3, dtype=torch.uint8))
    assert vectors.shape == (3, 96)


def test_quarantined_slide_gets_an_empty_table_of_the_same_schema(trained, tmp_path: Path) -> None:
    model, entry = trained
    lost = build_quarantined(Layout(tmp_path), "lost", grid=Grid(size=64, mpp=1.0))
    predictor = load_model(model)
    empty = predict_slide(predictor, lost, batch=8, threads=1)
    assert empty.num_rows == 0
    assert empty.schema == predict_slide(predictor, entry, batch=8, threads=1).schema


def test_another_grid_is_refused(trained, tmp_path: Path) -> None:
    other = build_slide(Layout(tmp_path), "other", seed=9, grid=Grid(size=32, mpp=2.0))
    with pytest.raises(HistomakeError, match="32 px at 2"):
        predict_slide(load_model(trained[0]), other, batch=8, threads=1)


def test_pickled_weights_are_refused(trained, tmp_path: Path) -> None:
    model = shutil.copytree(trained[0], tmp_path / "model")
    (model / "model.safetensors").write_bytes(pickle.dumps({"weights": [1, 2, 3]}))
    with pytest.raises(HistomakeError, match="pickled weights are refused"):
        load_model(model)


def test_weights_of_another_architecture_are_refused(trained, tmp_path: Path) -> None:
    model = shutil.copytree(trained[0], tmp_path / "model")
    description = json.loads((model / "model.json").read_text())
    description["architecture"]["name"] = "resnet18"
    write_json(model / "model.json", description)
    with pytest.raises(HistomakeError, match="another architecture"):
        load_model(model)


def test_model_with_a_missing_tensor_is_refused(trained, tmp_path: Path) -> None:
    model = shutil.copytree(trained[0], tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights.pop("conv1.0.weight")
    save_file(weights, model / "model.safetensors")
    with pytest.raises(HistomakeError, match="another architecture"):
        load_model(model)


def copied(model: Path, folder: Path, **card: object) -> Path:
    """A copy of a model with other values in its card."""
    shutil.copytree(model, folder)
    content = json.loads((folder / "model.json").read_text()) | card
    (folder / "model.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("card", "problem"),
    [
        ({"normalisation": {"mean": [0.5] * 3, "std": [0.0] * 3}}, "normalisation.std"),
        ({"normalisation": {"mean": [0.5] * 2, "std": [0.2] * 3}}, "normalisation.mean"),
        ({"normalisation": {"mean": [0.5, 0.5, float("nan")], "std": [0.2] * 3}}, "not a valid model card"),
        ({"threshold": float("nan")}, "not a valid model card"),
        ({"threshold": float("inf")}, "not a valid model card"),
        ({"threshold": [0.5]}, "threshold has 1 values for 2 outputs"),
        ({"slide_thresholds": {"mean": [0.5, 0.5, 0.5]}}, "mean has 3 values for 2 outputs"),
    ],
)
def test_a_card_that_would_give_every_patch_one_class_is_refused(trained, tmp_path: Path, card, problem) -> None:
    with pytest.raises(HistomakeError, match=problem):
        load_model(copied(trained[0], tmp_path / "model", **card))


def test_the_card_states_the_digest_of_its_weights(trained, tmp_path: Path) -> None:
    model = copied(trained[0], tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["fc.bias"] += 1
    save_file(weights, model / "model.safetensors")
    with pytest.raises(HistomakeError, match="its model card states"):
        load_model(model)


def test_scores_that_are_not_finite_are_refused_and_the_patch_is_named(trained) -> None:
    model, entry = trained
    predictor = load_model(model)
    with torch.no_grad():
        predictor.network.fc.bias.fill_(float("inf"))
    with pytest.raises(HistomakeError, match=r"the scores of patch \d+ are not finite"):
        predict_slide(predictor, entry, batch=16, threads=1)
