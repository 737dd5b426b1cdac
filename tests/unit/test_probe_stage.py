"""A classifier on features as a stage of a patch cascade: it scores patches as it does from stored features."""

from __future__ import annotations

import numpy as np
import pytest
from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.layout import Layout
from histomake.cascade.stage_scores import NetworkScores, load_stages, open_stages
from histomake.config import Encoder, Grid, Task, parse_config
from histomake.features.encoders import load_group
from histomake.features.extract import extract
from histomake.features.predict import load_head, predict_features
from histomake.features.training import train_head
from small_cohort import CLASSES, GRID_NAME, MPP, build_cohort

GRID = Grid(size=64, mpp=MPP)
ENCODER = Encoder(grid=GRID_NAME, name="resnet10t", weights=False, size=32)
MLP = {
    "head": "mlp",
    "train": {"steps": 20, "batch": 32, "validate_every": 20, "workers": 0},
    "probe": {"hidden": [16]},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def slides(root):
    return build_cohort(root, 4)


@pytest.fixture(scope="module")
def files(slides, root):
    ready = load_group({"a": ENCODER}, GRID, models={}, threads=1)
    found = {entry.slide_id: root / f"{entry.slide_id}.arrow" for entry in slides}
    for entry in slides:
        extract(ready, entry, found[entry.slide_id], batch=32, threads=1, code="c", made_of="m")
    return found


def trained(slides, files, folder, **head):
    settings = {"grid": GRID_NAME, "features": "a", "target": {"classes": CLASSES}} | head
    places = {"output": folder / "model", "state": folder / "state"}
    roles = {"train": slides[:2], "val": slides[2:3]}
    train_head(Task.model_validate(settings), **roles, files=files, column="a", **places, seed=1, threads=1)
    return folder / "model"


def how(**changes):
    """What the rules say of the encoder of a stage."""
    encoder = ENCODER.model_copy(update=changes)
    return {"name": "a", "encoder": encoder.shaping(), "grid": GRID.dump("size", "mpp")}


@pytest.mark.parametrize("head", [{"head": "linear"}, {"head": "knn"}, MLP], ids=["linear", "knn", "mlp"])
def test_scores_are_those_of_stored_features_whatever_is_asked_for_together(head, slides, files, root, tmp_path):
    folder = trained(slides, files, tmp_path, **head)
    stored = predict_features(load_head(folder), slides[3], files["s3"])["score_speckled"].to_numpy()
    predictors = load_stages([folder], [how()], threads=1)
    (stage,) = open_stages(Layout(root), predictors, ("s3", "p3", {}), [{"grid": GRID_NAME, "flips": False}], [7])
    answers = NetworkScores([stage], "speckled", threads=1)
    some = np.arange(len(stored))[3:40:4]
    np.testing.assert_array_equal(answers.of(0, some), stored[some])
    np.testing.assert_array_equal(answers.of(0, np.arange(len(stored))), stored)


def test_an_encoder_with_other_settings_than_the_head_was_trained_with_is_refused(slides, files, tmp_path):
    folder = trained(slides, files, tmp_path)
    with pytest.raises(HistomakeError, match="features of other weights or settings of encoder a"):
        load_stages([folder], [how(size=48)], threads=1)


def configured(**encoder):
    """A cascade whose coarse stage takes features."""
    classes = {"target": {"classes": ["a", "b"]}}
    return parse_config(
        {
            "annotations": {"classes": {"a": "a", "b": "b"}},
            "grids": {"low": {"mpp": 8.0}, "high": {"mpp": 1.0}},
            "encoders": {"cheap": {"grid": "low", **encoder}},
            "tasks": {"probe": {"grid": "low", "features": "cheap", **classes}, "fine": {"grid": "high", **classes}},
            "cascades": {"c": {"class_name": "a", "stages": ["probe", "fine"]}},
        }
    )


def test_a_task_on_features_can_be_a_stage():
    assert configured(name="resnet10t", weights=False).cascades["c"].stages == ["probe", "fine"]


def test_features_that_another_program_extracted_cannot_be_a_stage():
    with pytest.raises(ConfigError, match=r"probe takes features of encoders\.cheap, which has no weights of its own"):
        configured(name="h5:features")
