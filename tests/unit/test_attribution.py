"""Attribution: exact on linear models, honest about itself, and looking at the patches worth a look."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from histomake.errors import HistomakeError
from histomake.explain import attribution
from histomake.patch.table import METADATA_KEY
from torch import nn

SIZE = 32
DICTIONARY = pa.dictionary(pa.int32(), pa.string())


class Linear(nn.Module):
    """Two logits, the second a weighted sum of the pixels of one corner."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, SIZE, SIZE))
        with torch.no_grad():
            self.weight[:, :8, :8] = 0.05

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        second = (images * self.weight).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(second), second], 1)


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(16, 3, SIZE, SIZE, generator=generator)
    images = torch.rand(4, 3, SIZE, SIZE, generator=generator)
    images[:, :, :8, :8] += torch.rand(4, 3, 8, 8, generator=generator) * 3
    return images, base


def predictions(scores, labels) -> pa.Table:
    second = np.array(scores, np.float32)
    predicted = ["b" if s >= 0.5 else "a" for s in scores]
    return pa.table(
        {
            "patch_id": pa.array(range(len(scores)), pa.uint32()),
            "score_a": pa.array(1 - second),
            "score_b": pa.array(second),
            "predicted": pa.array(predicted).cast(DICTIONARY),
            "label": pa.array(labels, pa.string()).cast(DICTIONARY),
        }
    )


def test_the_margin_of_two_classes_is_the_difference_of_their_logits():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    images = torch.rand(5, 3, 2, 2)
    logits = network(images)
    margin = attribution.Margin(network)(images)
    assert torch.allclose(margin[:, 1], logits[:, 1] - logits[:, 0], atol=1e-5)
    assert torch.allclose(margin[:, 0], -margin[:, 1], atol=1e-5)


def test_a_network_that_answers_per_pixel_or_with_one_number_is_explained_too():
    per_pixel = attribution.Margin(nn.Conv2d(3, 4, 1))(torch.rand(2, 3, 8, 8))
    single = attribution.Margin(nn.Sequential(nn.Flatten(), nn.Linear(192, 1)))(torch.rand(2, 3, 8, 8))
    assert per_pixel.shape == (2, 4)
    assert single.shape == (2, 1)


def test_outputs_that_do_not_compete_are_explained_each_by_itself(pictures):
    images, base = pictures
    margin = attribution.Margin(Linear(), independent=True)
    assert torch.allclose(margin(images), margin.network(images))
    maps = attribution.explain(margin, images, base, seed=0, samples=10)
    assert (maps[:, 0] == 0).all()
    assert np.abs(maps[:, 1]).max() > 0


def test_maps_of_a_linear_model_are_its_weights_times_the_difference(pictures):
    images, base = pictures
    margin = attribution.Margin(Linear())
    maps = attribution.explain(margin, images, base, seed=0, samples=200)
    weight = margin.network.weight.detach().numpy()
    expected = weight * (images - base.mean(0)).numpy()
    assert np.abs(maps[:, 1] - expected).max() < 0.03
    assert np.allclose(maps[:, 0], -maps[:, 1])
    assert (maps[:, 1, :, 8:, 8:] == 0).all()


def test_the_same_seed_gives_the_same_map(pictures):
    images, base = pictures
    margin = attribution.Margin(Linear())
    first, second = (attribution.explain(margin, images, base, seed=5, samples=10) for _ in range(2))
    assert (first == second).all()


def test_checks_favour_a_right_map_and_not_a_reversed_one(pictures):
    images, base = pictures
    margin = attribution.Margin(Linear())
    scores = np.tile([0.1, 0.9], (len(images), 1)).astype(np.float32)
    maps = attribution.explain(margin, images, base, seed=0, samples=100)
    right = attribution.summarise(attribution.check(margin, images, base, maps, scores, seed=0))
    wrong = attribution.summarise(attribution.check(margin, images, base, -maps, scores, seed=0))
    assert right["deletion_better"] == 1
    assert right["insertion_better"] == 1
    assert right["additivity_error"] < 0.1
    assert wrong["deletion_better"] < 0.5
    assert wrong["additivity_error"] > 1


def test_randomised_weights_change_the_map_of_a_model_that_looks_at_pixels(pictures):
    images, base = pictures
    torch.manual_seed(7)
    margin = attribution.Margin(nn.Sequential(nn.Conv2d(3, 4, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2)))
    before = {name: value.clone() for name, value in margin.state_dict().items()}
    maps = attribution.explain(margin, images, base, seed=0)
    found = attribution.randomised(margin, images, base, maps, seed=0)
    assert found["repeat"] > 0.6
    assert abs(found["random"]) < found["repeat"] - 0.2
    assert all((before[name] == value).all() for name, value in margin.state_dict().items())


def test_patches_worth_a_look_are_chosen_by_rule():
    table = predictions([0.99, 0.51, 0.02, 0.97, 0.45, 0.9], ["b", "b", "a", "a", None, "b"])
    chosen = {(c.row, c.reason) for c in attribution.choose([table], 6)}
    assert (3, "misclassified") in chosen
    assert (1, "least certain") in chosen
    assert (0, "most certain") in chosen
    assert (2, "most certain") in chosen
    assert len(chosen) == len({row for row, _ in chosen})


def test_no_more_patches_are_chosen_than_there_are():
    assert len(attribution.choose([predictions([0.7], ["b"])], 16)) == 1
    assert attribution.choose([predictions([], [])], 16) == []


def test_cell_sums_keep_the_total():
    values = np.random.default_rng(0).normal(size=(50, 70)).astype(np.float32)
    sums = attribution.cell_sums(values)
    assert len(sums) == attribution.CELLS**2
    assert np.isclose(sums.sum(), values.sum(), rtol=1e-4)


def test_a_patch_asked_for_is_the_one_that_holds_the_point(tmp_path):
    meta = {"grid": {"size": 100, "mpp": 1.0}, "mpp": 0.5}
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"x": [0]}).replace_schema_metadata({METADATA_KEY: json.dumps(meta).encode()}), path)
    table = pa.table({"x": pa.array([0, 200], pa.int32()), "y": pa.array([0, 0], pa.int32())})
    tested = [(SimpleNamespace(slide_id=name, table=path), table) for name in ("other", "S")]
    predictor = SimpleNamespace(description=meta)
    (found,) = attribution.find([("S", 399, 199), ("of another fold", 0, 0)], tested, predictor)
    assert (found.slide, found.row, found.reason) == (1, 1, "asked for")
    with pytest.raises(HistomakeError, match=r"\(400, 0\)"):
        attribution.find([("S", 400, 0)], tested, predictor)
