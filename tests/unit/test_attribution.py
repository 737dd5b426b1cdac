"""Attribution: exact on linear models, with checks of the maps, and a choice of informative patches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from histomake.base.errors import HistomakeError
from histomake.base.records.attribution_checks import AttributionChecks
from histomake.config import Grid
from histomake.explain import attribution_checks, chosen, shapley
from histomake.patch.table import METADATA_KEY
from histomake.patch.tabulate import empty_table, write_patch_table
from torch import nn

from tests import sample_records

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
    margin = shapley.Margin(network)(images)
    assert torch.allclose(margin[:, 1], logits[:, 1] - logits[:, 0], atol=1e-5)
    assert torch.allclose(margin[:, 0], -margin[:, 1], atol=1e-5)


def test_a_network_that_answers_per_pixel_or_with_one_number_is_explained_too():
    per_pixel = shapley.Margin(nn.Conv2d(3, 4, 1))(torch.rand(2, 3, 8, 8))
    single = shapley.Margin(nn.Sequential(nn.Flatten(), nn.Linear(192, 1)))(torch.rand(2, 3, 8, 8))
    assert per_pixel.shape == (2, 4)
    assert single.shape == (2, 1)


def test_outputs_that_do_not_compete_are_explained_each_by_itself(pictures):
    images, base = pictures
    margin = shapley.Margin(Linear(), independent=True)
    assert torch.allclose(margin(images), margin.network(images))
    maps = shapley.explain(margin, images, base, seed=0, samples=10)
    assert (maps[:, 0] == 0).all()
    assert np.abs(maps[:, 1]).max() > 0


def test_maps_of_a_linear_model_are_its_weights_times_the_difference(pictures):
    images, base = pictures
    margin = shapley.Margin(Linear())
    maps = shapley.explain(margin, images, base, seed=0, samples=200)
    weight = margin.network.weight.detach().numpy()
    expected = weight * (images - base.mean(0)).numpy()
    assert np.abs(maps[:, 1] - expected).max() < 0.03
    assert np.allclose(maps[:, 0], -maps[:, 1])
    assert (maps[:, 1, :, 8:, 8:] == 0).all()


def test_the_same_seed_gives_the_same_map(pictures):
    images, base = pictures
    margin = shapley.Margin(Linear())
    first, second = (shapley.explain(margin, images, base, seed=5, samples=10) for _ in range(2))
    assert (first == second).all()


def test_checks_favour_a_right_map_and_not_a_reversed_one(pictures):
    images, base = pictures
    margin = shapley.Margin(Linear())
    scores = np.tile([0.1, 0.9], (len(images), 1)).astype(np.float32)
    maps = shapley.explain(margin, images, base, seed=0, samples=100)
    right = attribution_checks.summarise(attribution_checks.check(margin, images, base, maps, scores, seed=0))
    wrong = attribution_checks.summarise(attribution_checks.check(margin, images, base, -maps, scores, seed=0))
    assert right["deletion_better"] == 1
    assert right["insertion_better"] == 1
    assert right["additivity_error"] < 0.1
    assert wrong["deletion_better"] < 0.5
    assert wrong["additivity_error"] > 1


def test_curves_lead_from_the_patch_to_the_blurred_one_and_back_and_areas_lie_under_them(pictures):
    images, base = pictures
    margin = shapley.Margin(Linear())
    scores = np.tile([0.1, 0.9], (len(images), 1)).astype(np.float32)
    maps = shapley.explain(margin, images, base, seed=0, samples=20)
    checks = attribution_checks.check(margin, images, base, maps, scores, seed=0)
    blank = torch.stack([attribution_checks.blurred(image) for image in images])
    whole, gone = (margin(shown)[:, 1].detach().numpy() for shown in (images, blank))
    for way, first, last in (("deletion", whole, gone), ("insertion", gone, whole)):
        for name in (way, f"random_{way}"):
            curve = checks[f"{name}_curve"]
            assert curve.shape == (len(images), attribution_checks.STEPS + 1)
            np.testing.assert_allclose(curve[:, 0], first, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(curve[:, -1], last, rtol=1e-4, atol=1e-4)
            middle = curve[:, 1:-1].sum(1) + (curve[:, 0] + curve[:, -1]) / 2
            np.testing.assert_allclose(checks[name], middle / attribution_checks.STEPS)


def test_randomised_weights_change_the_map_of_a_model_that_looks_at_pixels(pictures):
    images, base = pictures
    torch.manual_seed(7)
    margin = shapley.Margin(nn.Sequential(nn.Conv2d(3, 4, 5, stride=3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2)))
    before = {name: value.clone() for name, value in margin.state_dict().items()}
    maps = shapley.explain(margin, images, base, seed=0)
    found = attribution_checks.randomised(margin, images, base, maps, seed=0)
    assert found.repeat > 0.6
    assert abs(found.random) < found.repeat - 0.2
    assert all((before[name] == value).all() for name, value in margin.state_dict().items())


class Constant(nn.Module):
    """A network with a constant output."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.2, 0.8]).expand(len(images), 2) + 0 * images.sum((1, 2, 3))[:, None]


@pytest.mark.parametrize("method", ["gradient", "partition"])
def test_a_model_with_constant_outputs_has_zero_attributions(pictures, tmp_path, method):
    images, base = pictures
    margin = shapley.Margin(Constant())
    maps = shapley.explain(margin, images[:1], base[:3], seed=0, samples=10, method=method)
    assert not maps.any()
    scores = np.array([[0.2, 0.8]], np.float32)
    checks = attribution_checks.check(margin, images[:1], base[:3], maps, scores, seed=0)
    weights = attribution_checks.randomised(margin, images[:1], base[:3], maps, seed=0, method=method)
    assert weights.random is None
    summary = attribution_checks.summarise(checks)
    assert summary["deletion_better"] == 0
    record = AttributionChecks(patches=1, background=3, method=method, randomised_weights=weights, **summary)
    record.write(tmp_path / "checks.json")


def test_patches_to_explain_are_chosen_by_rule():
    table = predictions([0.99, 0.51, 0.02, 0.97, 0.45, 0.9], ["b", "b", "a", "a", None, "b"])
    found = {(c.row, c.reason) for c in chosen.choose([table], 6, "classification", ["a", "b"])}
    assert (3, "misclassified") in found
    assert (1, "least certain") in found
    assert (0, "surest b") in found
    assert (2, "surest a") in found
    assert len(found) == len({row for row, _ in found})


def test_for_numbers_the_largest_error_the_median_and_the_extremes_are_chosen():
    columns = {"score_age": [1.0, 5.0, 9.0, 4.0], "target_age": [1.0, None, 9.5, 0.0]}
    table = pa.table({name: pa.array(values, pa.float32()) for name, values in columns.items()})
    found = {c.row: c.reason for c in chosen.choose([table], 4, "regression", ["age"])}
    assert found == {3: "largest error", 1: "near the median", 2: "highest age", 0: "lowest age"}


def test_of_segmented_patches_those_with_most_wrong_pixels_come_first():
    columns = {
        "score_a": [1.0, 0.5, 0.9],
        "score_b": [0.0, 0.5, 0.1],
        "fn_a": [0.0, 0.0, 40.0],
        "fn_b": [0.0, 7.0, 0.0],
    }
    table = pa.table({name: pa.array(values, pa.float32()) for name, values in columns.items()})
    found = {c.row: c.reason for c in chosen.choose([table], 3, "segmentation", ["a", "b"])}
    assert found == {2: "most pixels wrong", 1: "most mixed", 0: "most a"}


def test_of_several_labels_the_patch_with_one_undecided_class_is_the_least_certain():
    columns = {"score_a": [0.99, 0.99, 0.1], "score_b": [0.98, 0.5, 0.1]}
    table = pa.table({name: pa.array(values, pa.float32()) for name, values in columns.items()})
    table = table.append_column("predicted", pa.array(["a+b", "a+b", ""]).cast(DICTIONARY))
    table = table.append_column("label", pa.array(["a+b", "a+b", "b"]).cast(DICTIONARY))
    found = {c.row: c.reason for c in chosen.choose([table], 3, "multi_label", ["a", "b"])}
    assert found[2] == "misclassified"
    assert found[1] == "least certain"


def test_no_more_patches_are_chosen_than_there_are():
    assert len(chosen.choose([predictions([0.7], ["b"])], 16, "classification", ["a", "b"])) == 1
    assert chosen.choose([predictions([], [])], 16, "classification", ["a", "b"]) == []


def test_cell_sums_keep_the_total():
    values = np.random.default_rng(0).normal(size=(50, 70)).astype(np.float32)
    sums = attribution_checks.cell_sums(values)
    assert len(sums) == shapley.CELLS**2
    assert np.isclose(sums.sum(), values.sum(), rtol=1e-4)


@pytest.fixture
def tested(tmp_path):
    """Two slides with a row of patches of 100 µm each, of 200 level-0 pixels."""
    record = sample_records.patch_table(grid=Grid(size=100, mpp=1.0), width=2000, height=200)
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"x": [0]}).replace_schema_metadata({METADATA_KEY: record.encode("table")}), path)
    table = pa.table({"x": pa.array(np.arange(10) * 200, pa.int32()), "y": pa.array(np.zeros(10), pa.int32())})
    return [(SimpleNamespace(slide_id=name, table=path), table) for name in ("other", "S")]


def test_a_requested_patch_is_the_one_that_contains_the_point(tested):
    (found,) = chosen.asked_for([("S", 399, 199), ("of another fold", 0, 0)], [], tested)
    assert (found.slide, found.row, found.reason) == (1, 1, "asked for")
    with pytest.raises(HistomakeError, match=r"\(400, 200\)"):
        chosen.asked_for([("S", 400, 200)], [], tested)


def test_points_and_regions_on_a_slide_in_quarantine_are_skipped(tested, tmp_path):
    lost = tmp_path / "lost.parquet"
    write_patch_table(empty_table(sample_records.lost("lost"), ["a"]), lost)
    slides = [*tested, (SimpleNamespace(slide_id="lost", table=lost), tested[0][1].slice(0, 0))]
    points, regions = [("lost", 0, 0), ("S", 0, 0)], [("lost", 0, 0, 100, 100)]
    assert [(c.slide, c.row) for c in chosen.asked_for(points, regions, slides)] == [(1, 0)]


def test_of_a_region_some_patches_are_taken_evenly(tested):
    found = chosen.asked_for([], [("S", 250, 0, 1600, 200)], tested)
    assert [c.row for c in found] == [1, 3, 6, 8]
    assert {c.reason for c in found} == {"in a region"}
    assert chosen.asked_for([], [("S", 0, 5000, 100, 100)], tested) == []


def test_squares_of_a_linear_model_add_up_exactly_and_lie_where_it_looks(pictures):
    images, base = pictures
    margin = shapley.Margin(Linear())
    maps = shapley.explain(margin, images[:2], base[:3], seed=0, method="partition")
    assert maps.shape == (2, 2, 1, SIZE, SIZE)
    with torch.no_grad():
        gap = margin(images[:2]) - margin(base[:3]).mean(0)
    assert np.allclose(maps.sum((2, 3, 4)), gap, atol=1e-3)
    outside = np.abs(maps[:, 1, 0, 8:]).sum() + np.abs(maps[:, 1, 0, :8, 8:]).sum()
    assert outside < 1e-3 * np.abs(maps[:, 1]).sum()


class NoGradients(nn.Module):
    """A network whose answers have no gradient: whether the first corner is bright."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = (images[:, :, :8, :8].mean((1, 2, 3)) > 0.8).float()
        return torch.stack([-bright, bright], 1)


def test_a_network_without_gradients_is_explained_by_squares(pictures):
    images, base = pictures
    maps = shapley.explain(shapley.Margin(NoGradients()), images[:1], base[:3], seed=0, method="partition")
    assert maps[0, 1, 0, :8, :8].sum() == pytest.approx(maps[0, 1].sum(), rel=1e-3)
    assert maps[0, 1].sum() > 1
