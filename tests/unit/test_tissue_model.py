"""Tests of tissue detection by a segmentation network: no seams, its own scale, unsuitable models refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from array_reader import ArrayReader
from histomake.base.errors import ConfigError
from histomake.base.kinds import Kind
from histomake.base.records.model_card import ModelGrid
from histomake.config import Tissue
from histomake.learn.engine.runtime import Runtime
from histomake.learn.inference import tissue_model
from histomake.learn.inference.predict import Predictor
from histomake.tissue.mask import presegment
from scenes import MPP, two_pieces
from torch import nn

from tests import sample_records

CARD = sample_records.model_card(
    "segmentation",
    class_names=["background", "tissue"],
    grid=ModelGrid(name="x1", size=64, mpp=8.0),
    target={"source": "mask", "classes": ["tissue"], "unlabelled": "background"},
    architecture={"name": "unet"},
)


class Darkness(nn.Module):
    """A network that marks tissue where green is below one half, so that the correct mask is known."""

    def forward(self, images):
        green = images[:, 1:2]
        return torch.cat([green - 0.5, 0.5 - green], dim=1) * 20


@pytest.fixture
def predictor():
    return Predictor(Darkness().eval(), CARD, Runtime(torch.device("cpu"), torch.float32))


@pytest.mark.parametrize("shape", [(64, 64), (200, 333), (30, 70), (65, 128)])
def test_every_pixel_equals_the_output_of_the_network_for_any_image_size(predictor, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = tissue_model.find_tissue(predictor, image)
    np.testing.assert_array_equal(found, image[..., 1] < 127.5)


def test_the_network_output_is_cleaned_like_the_threshold(predictor):
    def segment(image):
        return tissue_model.find_tissue(predictor, image)

    found = presegment(ArrayReader(two_pieces(), MPP), Tissue(), slide_id="s1", segment=segment)
    assert found.record.method == "model"
    assert found.record.threshold is None
    assert 0.2 < found.record.area_mm2 < 1.4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": Kind.CLASSIFICATION}, "is a classification model"),
        ({"class_names": ["background", "tumor"]}, "a class 'tissue' is needed"),
        ({"grid": ModelGrid(name="x1", size=64, mpp=0.5)}, "trained at 0.5 µm/px"),
    ],
)
def test_an_unsuitable_tissue_model_is_refused(monkeypatch, predictor, tmp_path, change, said):
    other = Predictor(predictor.network, msgspec.structs.replace(CARD, **change), predictor.runtime)
    monkeypatch.setattr(tissue_model, "load_model", lambda *_, **__: other)
    with pytest.raises(ConfigError, match=said):
        tissue_model.tissue_model(tmp_path, mpp=8.0, threads=1)
