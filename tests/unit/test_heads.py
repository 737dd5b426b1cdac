"""Heads on features: what they learn, how they are chosen on validation patches, and which features they refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.kinds import Kind
from histomake.base.records.model_card import ModelCard
from histomake.config import Encoder, Grid, Task, parse_config
from histomake.config.kinds import ACCEPTED
from histomake.features.encoders import load_group
from histomake.features.extract import extract
from histomake.features.heads import HeadSamples, choose_linear, choose_neighbours
from histomake.features.predict import load_head, predict_features
from histomake.features.store import read_features
from histomake.features.training import train_head
from histomake.learn.heads import fits
from histomake.learn.heads.networks import NeighbourHead
from histomake.learn.inference.predict import load_model
from histomake.learn.kinds import TRAINED
from histomake.learn.objectives.losses import build_loss
from sklearn.linear_model import LogisticRegression
from small_cohort import CLASSES, GRID_NAME, MPP, build_cohort

GRID = Grid(size=64, mpp=MPP)
KINDS = {
    "classification": {"classes": CLASSES},
    "multi_label": {"classes": CLASSES, "min_area": 0.3},
    "regression": {"classes": ["speckled"]},
}


def task(kind="classification", **values):
    told = {"kind": kind, "grid": GRID_NAME, "features": "a", "target": KINDS[kind]} | values
    return Task.model_validate(told)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def slides(root):
    return build_cohort(root, 4)


@pytest.fixture(scope="module")
def files(slides, root):
    ready = load_group({"a": Encoder(grid=GRID_NAME, name="resnet10t", weights=False)}, GRID, models={}, threads=1)
    found = {entry.slide_id: root / f"{entry.slide_id}.arrow" for entry in slides}
    for entry in slides:
        extract(ready, entry, found[entry.slide_id], batch=32, threads=1, code="c", made_of="m")
    return found


def trained(settings, slides, files, folder):
    return train_head(
        settings,
        train=slides[:2],
        val=slides[2:3],
        files=files,
        column="a",
        output=folder / "model",
        state=folder / "state",
        seed=1,
        threads=1,
    )


MLP = {
    "head": "mlp",
    "train": {"steps": 40, "batch": 32, "validate_every": 20, "workers": 0},
    "probe": {"hidden": [16]},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", [{"head": "linear"}, {"head": "knn"}, MLP], ids=["linear", "knn", "mlp"])
def test_every_head_learns_every_kind_of_patches(kind, head, slides, files, tmp_path):
    card = trained(task(kind, **head), slides, files, tmp_path)
    predictor = load_head(tmp_path / "model")
    table = predict_features(predictor, slides[3], files["s3"])
    assert table.num_rows == len(read_features(files["s3"]))
    last = predictor.class_names[-1]
    score = table[f"score_{last}"].to_numpy()
    if kind == "regression":
        truth = table[f"target_{last}"].to_numpy()
        assert np.corrcoef(score, truth)[0, 1] > 0.9
    else:
        truth = np.array([last in (label or "") for label in table["label"].cast(pa.string()).to_pylist()])
        assert score[truth].mean() > score[~truth].mean() + 0.5
    assert card.features.encoder == "a"
    assert (card.head["name"], card.kind) == (head["head"], kind)
    assert (tmp_path / "model" / "history.csv").is_file()


def test_a_head_is_the_same_every_time(slides, files, tmp_path):
    for name in ("first", "second"):
        trained(task(**MLP), slides, files, tmp_path / name)
    first, second = ((tmp_path / n / "model" / "model.safetensors").read_bytes() for n in ("first", "second"))
    assert first == second


def test_the_linear_head_is_scikit_learn_s_logistic_regression():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 5)).astype(np.float32)
    for classes in (2, 3):
        target = (x[:, 0] + 0.5 * rng.standard_normal(200) > 0).astype(np.int64) + (x[:, 1] > 1) * (classes - 2)
        weights, biases = fits.fit_classes(x, target, np.ones(200), 0.01)
        ours = torch.softmax(torch.from_numpy(x @ weights.T + biases), 1).numpy()
        theirs = LogisticRegression(C=1 / (0.01 * 200), max_iter=500).fit(x, target).predict_proba(x)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_patch_drawn_more_often_counts_more():
    x = np.array([[0.0], [0.0], [1.0]], np.float32)
    target = np.array([0, 1, 1])
    weights, biases = fits.fit_classes(x, target, np.array([3.0, 1.0, 1.0]), 1e-3)
    share = torch.softmax(torch.from_numpy(x @ weights.T + biases), 1)[0, 1]
    assert share == pytest.approx(0.25, abs=0.03)


def test_unknown_targets_are_not_learned():
    x = np.array([[-1.0], [1.0], [5.0]], np.float32)
    known = fits.fit_numbers(x[:2], np.array([[0.0], [1.0]]), np.ones(2), 1e-6)
    with_unknown = fits.fit_numbers(x, np.array([[0.0], [1.0], [np.nan]]), np.ones(3), 1e-6)
    np.testing.assert_allclose(known[0], with_unknown[0], rtol=1e-5)
    weights, biases = fits.fit_labels(x, np.array([[1.0, 0.0], [1.0, 1.0], [1.0, np.nan]]), np.ones(3), 1e-3)
    assert weights[0] == 0
    assert torch.sigmoid(torch.tensor(biases[0])) > 0.99


def samples(x, target):
    count = len(x)
    return HeadSamples(
        x.astype(np.float32), target, np.ones(count), np.zeros(count, np.int32), np.ones(count, np.float32)
    )


def test_the_penalty_that_is_best_on_validation_patches_is_taken():
    rng = np.random.default_rng(1)
    x, noise = rng.standard_normal((60, 40)), rng.standard_normal(60)
    train = samples(x[:40], ((x[:, :1] + 0.8 * noise[:, None]) > 0)[:40, 0].astype(np.int64))
    val = samples(rng.standard_normal((400, 40)), np.zeros(400, np.int64))
    val = replace(val, target=(val.features[:, 0] > 0).astype(np.int64))
    chosen = choose_linear(task(probe={"penalties": [1e-6, 0.3]}), train, val, outputs=2, loss=build_loss("ce"))
    assert chosen.chosen == {"penalty": 0.3}
    assert [row["penalty"] for row in chosen.history] == [0.3, 1e-6]
    assert min(row["val_loss"] for row in chosen.history) == chosen.figures["loss"]


def test_the_number_of_neighbours_is_chosen_on_validation_patches():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((300, 2))
    flipped = rng.random(300) < 0.3
    train = samples(x, (x[:, 0] > 0).astype(np.int64) ^ flipped)
    y = rng.standard_normal((200, 2))
    val = samples(y, (y[:, 0] > 0).astype(np.int64))
    settings = task(head="knn", probe={"neighbours": [1, 25]}, train={"select": "accuracy"})
    found = choose_neighbours(settings, train, val, outputs=2, loss=build_loss("ce"))
    assert found.chosen == {"neighbours": 25}


def test_neighbours_are_averaged_by_similarity_without_unknown_targets():
    head = NeighbourHead(2, 1, rows=3, as_logits=fits.same_values)
    head.remember(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]), torch.tensor([[1.0], [3.0], [torch.nan]]))
    head.neighbours.fill_(3)
    assert head(torch.tensor([[1.0, 0.0]])).item() == pytest.approx((1 * 1 + 0.5 * 3) / 1.5)


@pytest.mark.parametrize("kind", Kind)
def test_a_kind_is_learned_from_features_if_the_configuration_accepts_it(kind):
    assert (TRAINED[kind].on_features is not None) == ACCEPTED[kind].features


def test_values_and_logits_of_a_kind_are_inverse():
    for kind, how in ((k, TRAINED[k].on_features) for k in Kind if TRAINED[k].on_features):
        values = torch.tensor([[0.25, 0.75], [0.9, 0.1]])
        torch.testing.assert_close(TRAINED[kind].activate(how.as_logits(values)), values, atol=1e-3, rtol=0)


def test_features_of_other_weights_than_the_head_s_are_refused(slides, files, tmp_path):
    trained(task(), slides, files, tmp_path)
    other = load_group({"a": Encoder(grid=GRID_NAME, name="resnet14t", weights=False)}, GRID, models={}, threads=1)
    extract(other, slides[3], tmp_path / "other.arrow", batch=32, threads=1, code="c", made_of="m")
    with pytest.raises(HistomakeError, match=r"slide s3: .*other weights or settings of encoder a"):
        predict_features(load_head(tmp_path / "model"), slides[3], tmp_path / "other.arrow")
    mixed = files | {"s1": tmp_path / "other.arrow"}
    with pytest.raises(HistomakeError, match=r"other.arrow (has features a of other weights|lacks patches)"):
        trained(task(), slides, mixed, tmp_path / "mixed")


def test_a_slide_that_the_encoder_was_trained_on_is_not_tested(slides, files, tmp_path):
    from histomake.base.records.manifest import Manifest

    ready = load_group({"a": Encoder(grid=GRID_NAME, name="resnet10t", weights=False)}, GRID, models={}, threads=1)
    digest = Manifest.read(slides[3].manifest).sha256[:20]
    column = replace_column(ready[0], made_with=[digest])
    leaky = {}
    for entry in slides:
        leaky[entry.slide_id] = tmp_path / f"{entry.slide_id}.arrow"
        extract([column], entry, leaky[entry.slide_id], batch=32, threads=1, code="c", made_of="m")
    card = trained(task(), slides, leaky, tmp_path)
    assert digest in card.made_with
    with pytest.raises(HistomakeError, match="slide s3 leaks: encoder a was trained on it"):
        predict_features(load_head(tmp_path / "model"), slides[3], leaky["s3"])


def replace_column(encoder, **values):
    import msgspec

    return replace(encoder, column=msgspec.structs.replace(encoder.column, **values))


def test_models_of_pixels_and_of_features_are_not_taken_for_each_other(slides, files, tmp_path):
    card = trained(task(), slides, files, tmp_path)
    with pytest.raises(HistomakeError, match="takes features of encoder a, not pixels"):
        load_model(tmp_path / "model")
    import msgspec

    msgspec.structs.replace(card, features=None).write(tmp_path / "model" / "model.json")
    with pytest.raises(HistomakeError, match="takes pixels, not features"):
        load_head(tmp_path / "model")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"name": "resnet50"}}, "has no model"),
        ({"augment": {"blur": 1.0}}, "has no augment"),
        ({"train": {"steps": 7}}, r"train\.steps: the head linear does not use it"),
        ({"head": "mlp", "train": {"positions": "random"}}, r"train\.positions: the head mlp"),
        ({"predict": {"flips": True}}, r"encoders\.<name>\.views"),
        ({"features": None, "head": "knn"}, "head and probe need features"),
        ({"kind": "segmentation", "target": {"source": "mask", "classes": CLASSES}}, "segmentation needs pixels"),
    ],
)
def test_settings_that_a_head_ignores_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Task.model_validate({"grid": "x", "features": "a", "target": KINDS["classification"]} | values)


@pytest.mark.parametrize(
    ("encoders", "message"),
    [
        ({}, r"tasks\.t\.features: 'a' is not under encoders \(none\)"),
        ({"a": {"grid": "other", "name": "resnet18", "weights": False}}, "is not the grid of encoder a"),
    ],
)
def test_a_task_names_an_encoder_of_its_grid(encoders, message):
    classes = {name: name for name in CLASSES}
    content = {
        "annotations": {"classes": classes},
        "grids": {GRID_NAME: {"mpp": 1.0}, "other": {"mpp": 2.0}},
        "encoders": encoders,
        "tasks": {"t": {"grid": GRID_NAME, "features": "a", "target": KINDS["classification"]}},
    }
    with pytest.raises(ConfigError, match=message):
        parse_config(content)


def test_the_card_of_a_head_is_read_again(slides, files, tmp_path):
    card = trained(task(), slides, files, tmp_path)
    assert ModelCard.read(tmp_path / "model" / "model.json") == card
