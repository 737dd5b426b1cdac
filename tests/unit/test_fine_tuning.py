"""Training that starts from the weights of an encoder: its normalisation, and which encoders can be named."""

from __future__ import annotations

import pytest
import torch
from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.layout import WEIGHTS
from histomake.base.records.model_card import slides_behind
from histomake.base.records.record import RecordError
from histomake.config import Task, parse_config
from histomake.learn.engine.runtime import choose_runtime
from histomake.learn.objectives.patches import PatchObjective
from histomake.learn.train import known_patches
from histomake.model.encoder_folder import write_efficientnet_lite0
from safetensors.torch import load_file
from small_cohort import CLASSES, GRID_NAME, build_cohort

TARGET = {"classes": CLASSES}


@pytest.fixture(scope="module")
def lite0(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lite0")
    write_efficientnet_lite0(folder)
    return folder


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    slides = build_cohort(tmp_path_factory.mktemp("cohort"), 2)
    return known_patches(slides, Task(grid=GRID_NAME, target=TARGET))


def objective(patches, tmp_path, **model):
    task = Task.model_validate({"grid": GRID_NAME, "target": TARGET, "model": model})
    runtime = choose_runtime("fp32", threads=1)
    return PatchObjective(task, patches=patches, held_out=patches, runtime=runtime, state=tmp_path, seed=1, threads=1)


def test_training_starts_from_the_weights_of_an_encoder_and_takes_its_normalisation(lite0, patches, tmp_path):
    found = objective(patches, tmp_path, name="tf_efficientnet_lite0", pretrained=str(lite0))
    assert found.normalisation.mean == (0.5, 0.5, 0.5)
    expected = load_file(lite0 / WEIGHTS)["conv_stem.weight"]
    assert torch.equal(found.network.state_dict()["conv_stem.weight"], expected)
    assert found.network.state_dict()["classifier.weight"].shape[0] == len(CLASSES)


def test_a_network_that_is_not_the_encoder_s_is_refused(lite0, patches, tmp_path):
    with pytest.raises(HistomakeError, match="another architecture"):
        objective(patches, tmp_path, name="resnet18", pretrained=str(lite0))


def test_no_slide_is_behind_the_weights_of_an_encoder(lite0, tmp_path):
    assert slides_behind(lite0 / "model.json") == []
    (tmp_path / "model.json").write_text("[1]")
    with pytest.raises(RecordError, match="not a valid model card"):
        slides_behind(tmp_path / "model.json")


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"name": "resnet18", "weights": False}, "encoder e has no file of weights"),
        ({"name": "hf-hub:a/b"}, "encoder e has no file of weights"),
        ({"name": "folder:a", "weights": "b.safetensors"}, "into its folder"),
    ],
)
def test_only_an_encoder_with_a_file_of_weights_can_be_started_from(encoder, message):
    content = {
        "annotations": {"classes": {name: name for name in CLASSES}},
        "encoders": {"e": {"grid": "x20"} | encoder},
        "tasks": {"t": {"grid": "x20", "target": TARGET, "model": {"pretrained": "e"}}},
    }
    with pytest.raises(ConfigError, match=message):
        parse_config(content)
