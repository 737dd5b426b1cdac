"""Measures of generators: distances by hand, planted copies, and what sets of images must be like."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.config import Generator
from histomake.generate.growing.fields import index_fields
from histomake.generate.growing.measures import measure_generator, poses
from histomake.generate.growing.neighbours import coverage, distances, nearness
from histomake.generate.growing.sliced_wasserstein import scales, sliced_wasserstein
from histomake.patch.field_grid import field_grid
from small_cohort import build_slide

SETTINGS = Generator.model_validate({"field_um": 64, "sizes": [4, 8, 16]})


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(count: int, size: int, seed: int) -> np.ndarray:
    return rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    layout = Layout(tmp_path_factory.mktemp("cohort"))
    entries = [build_slide(layout, f"s{i}", seed=i, grid=field_grid(SETTINGS)) for i in range(4)]
    return [index_fields(part, SETTINGS, what="slides") for part in (entries[:2], entries[2:])]


class Planted:
    """Images in place of samples."""

    def __init__(self, images):
        self.drawn = images
        self.card = SimpleNamespace(sizes=[4, 8, 16], weights_sha256=None)

    def images(self, count):
        return self.drawn[:count]


def measured(fields, images, **changes):
    training, held_out = fields
    given = {"name": "renal", "training": training, "held_out": held_out, "encoder": None, "count": 60, "seed": 1}
    return measure_generator(Planted(images), **given | changes).record


def read(fields, count=60):
    patches = fields.patches
    index = rng(5).permutation(len(patches))[:count]
    return fields.reader(16).read(index, patches.x[index], patches.y[index])[0]


# --- sliced Wasserstein ----------------------------------------------------------------------------------------------


def test_scales_add_up_to_the_images():
    images = noise(2, 64, 0)
    found = list(scales(images))
    assert [edge for edge, _ in found] == [64, 32, 16]
    assert [level.shape for _, level in found] == [(2, edge, edge, 3) for edge in (64, 32, 16)]
    flat = np.full((1, 32, 32, 3), 90, np.uint8)
    (_, detail), (_, coarse) = scales(flat)
    assert np.abs(detail).max() < 1e-3
    assert np.allclose(coarse, 90)


def test_images_of_one_distribution_are_closer_than_those_of_another():
    first, second = noise(40, 32, 1), noise(40, 32, 2)
    striped = first.copy()
    striped[:, ::2] = 0
    alike, different = (sliced_wasserstein(first, other, rng()) for other in (second, striped))
    assert set(alike) == {32, 16}
    assert different[32] > 5 * alike[32]


def test_the_distance_of_a_set_from_itself_is_small_and_symmetric():
    first, second = noise(30, 16, 1), noise(30, 16, 2) // 2
    assert sliced_wasserstein(first, second, rng())[16] == pytest.approx(
        sliced_wasserstein(second, first, rng())[16], rel=0.3
    )


# --- neighbours ------------------------------------------------------------------------------------------------------


def test_distances_are_euclidean():
    assert np.allclose(distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])), [[5.0, 1.0]])


def test_coverage_by_hand():
    real = np.arange(5.0)[:, None]
    # The radii, distances to the third neighbours, are 3, 2, 2, 2, 3.
    made = np.array([[-3.0], [-3.1], [2.5], [7.0], [8.0]])
    assert coverage(made, real) == pytest.approx(3 / 5)


def test_coverage_needs_more_images_than_neighbours():
    with pytest.raises(ValueError, match="more than 3"):
        coverage(np.zeros((3, 1)), np.zeros((3, 1)))


def test_a_copy_in_any_pose_is_near_to_its_training_field_alone():
    training = noise(20, 8, 3)
    copy = np.rot90(training[7:8], 3, axes=(1, 2))[:, :, ::-1]
    assert len({pose.tobytes() for pose in poses(copy)}) == 8
    posed = np.stack([pose.reshape(1, -1).astype(np.float32) for pose in poses(copy)])
    found = nearness(posed, training.reshape(20, -1))
    assert (found.nearest[0], found.distance[0], found.ratio[0]) == (7, 0, 0)


# --- records ---------------------------------------------------------------------------------------------------------


def test_samples_that_are_copies_are_flagged(fields):
    copied = np.clip(read(fields[0]).astype(int) + rng().integers(-2, 3, (60, 16, 16, 3)), 0, 255).astype(np.uint8)
    record = measured(fields, copied)
    assert record.memorisation.flagged
    assert record.memorisation.copies > 0.5
    assert record.memorisation.made < record.memorisation.held_out
    assert "copies of training fields" in record.flags[0]


def test_fields_of_other_patients_and_blurred_images_are_no_copies(fields):
    flat = np.broadcast_to(read(fields[0]).mean((0, 1, 2)).astype(np.uint8), (60, 16, 16, 3))
    for images in (read(fields[1]), flat):
        record = measured(fields, images)
        assert not record.memorisation.flagged
        assert record.flags == []


def test_real_fields_are_closer_at_every_scale_than_noise(fields):
    for images, closer in ((noise(60, 16, 4), False), (read(fields[1]), True)):
        (scale,) = measured(fields, images).scales
        assert scale.edge == 16
        assert (scale.made < 2 * scale.real) == closer


def test_without_an_encoder_features_are_left_out(fields):
    record = measured(fields, noise(60, 16, 4))
    assert (record.encoder, record.made, record.real) == (None, None, None)
    assert record.images[0] == 60
    assert record.slides == (["s0", "s1"], ["s2", "s3"])


class MeanColours:
    """An encoder: the mean colours of the quarters of an image, whatever its pose."""

    name = "colours"
    runtime = SimpleNamespace(device=torch.device("cpu"))

    def encode(self, inputs):
        return torch.nn.functional.avg_pool2d(inputs, 8).flatten(2).sort(2).values.flatten(1)


def test_with_an_encoder_its_features_are_compared(fields):
    near, far = (measured(fields, images, encoder=MeanColours()) for images in (read(fields[1]), noise(60, 16, 4)))
    assert near.encoder == near.memorisation.space == "colours"
    assert near.made.kid < far.made.kid
    assert near.made.fid < far.made.fid
    assert (far.made.precision, far.made.recall) == (0, 0)
    assert "must learn longer" in far.flags[0]
    assert near.flags == []
    assert near.made.precision > 0.5
    assert near.made.kid_interval[0] <= near.made.kid <= near.made.kid_interval[1]


def test_too_few_fields_are_refused(fields):
    with pytest.raises(HistomakeError, match=r"generators.renal: the training slides have 5 usable fields"):
        measured(fields, noise(60, 16, 4), count=5)
