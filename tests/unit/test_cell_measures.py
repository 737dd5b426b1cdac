"""Tests of the measures of cells: they are those of scikit-image, object by object."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from histomake.cells.measure import shapes, stains
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.color import hed_from_rgb
from skimage.measure import perimeter, regionprops

MPP = 0.5


def blobs(seed, blur=1.5):
    """Objects of many shapes; some touch each other, some touch the edge, some are single pixels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((60, 70)), blur)
    labels = ndimage.label(noise > np.quantile(noise, 0.6))[0].astype(np.int32)
    labels[:, 35:][labels[:, 35:] > 0] += labels.max()
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), blur=st.sampled_from([0.5, 1.5, 3.0]))
def test_shapes_are_those_of_scikit_image(seed, blur):
    labels = blobs(seed, blur)
    found = shapes(labels, int(labels.max()), MPP)
    expected = regionprops(labels)
    np.testing.assert_allclose(found["area"], [p.area * MPP**2 for p in expected])
    np.testing.assert_allclose(found["row"], [p.centroid[0] + 0.5 for p in expected])
    np.testing.assert_allclose(found["column"], [p.centroid[1] + 0.5 for p in expected])
    np.testing.assert_allclose(found["perimeter"], [perimeter(np.pad(p.image, 1)) * MPP for p in expected])
    np.testing.assert_allclose(found["eccentricity"], [p.eccentricity for p in expected], atol=1e-6)
    elongated = np.array([p.eccentricity > 0.2 for p in expected])
    angles = np.array([90 - np.degrees(p.orientation) for p in expected])
    apart = np.abs((found["orientation"] - angles + 90) % 180 - 90)
    assert (apart[elongated] < 1e-4).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), blur=st.sampled_from([0.5, 1.5, 3.0]))
def test_solidity_is_the_share_of_the_hull_of_the_pixels(seed, blur):
    labels = blobs(seed, blur)
    found = shapes(labels, int(labels.max()), MPP)["solidity"]
    for number, solidity in enumerate(found, start=1):
        y, x = np.nonzero(labels == number)
        hull = shapely.convex_hull(shapely.multipolygons(shapely.box(x, y, x + 1, y + 1)))
        assert solidity == pytest.approx(x.size / hull.area)


def test_a_rectangle_has_known_measures():
    labels = np.zeros((20, 30), np.int32)
    labels[4:8, 5:25] = 1
    found = {name: values[0] for name, values in shapes(labels, 1, MPP).items()}
    assert (found["row"], found["column"]) == (6, 15)
    assert found["area"] == 80 * 0.25
    assert found["solidity"] == 1
    assert found["orientation"] == 0
    assert found["perimeter"] == pytest.approx((2 * 19 + 2 * 3) * MPP, rel=0.1)


def test_the_angle_of_the_long_axis_runs_from_x_to_y():
    labels = np.eye(20, dtype=np.int32)
    assert shapes(labels, 1, MPP)["orientation"][0] == pytest.approx(45)
    assert shapes(labels[::-1].copy(), 1, MPP)["orientation"][0] == pytest.approx(135)


def test_stains_are_means_over_the_pixels_of_each_cell():
    rng = np.random.default_rng(3)
    labels = blobs(3)
    pixels = rng.integers(1, 256, (*labels.shape, 3)).astype(np.uint8)
    found = stains(labels, int(labels.max()), pixels)
    density = -np.log10(pixels / 255) @ hed_from_rgb
    numbers = np.arange(1, labels.max() + 1)
    np.testing.assert_allclose(found["haematoxylin"], ndimage.mean(density[..., 0], labels, numbers), atol=1e-4)
    np.testing.assert_allclose(found["eosin"], ndimage.mean(density[..., 1], labels, numbers), atol=1e-4)
    deviation = ndimage.standard_deviation(density[..., 0], labels, numbers)
    np.testing.assert_allclose(found["texture"], deviation, atol=1e-4)


def test_black_pixels_have_a_finite_density():
    found = stains(np.ones((2, 2), np.int32), 1, np.zeros((2, 2, 3), np.uint8))
    assert all(np.isfinite(values).all() for values in found.values())


def test_the_hull_of_pieces_with_gaps_and_notches_is_that_of_all_their_pixels():
    """Pieces of a numbered mask need not be connected."""
    rng = np.random.default_rng(1)
    labels = np.zeros((60, 60), np.int32)
    for number, (top, left) in enumerate(((0, 0), (0, 30), (30, 0), (30, 30)), start=1):
        labels[top : top + 30, left : left + 30] = number * (rng.random((30, 30)) < 0.05 * number)
    found = shapes(labels, 4, 0.5)
    for number in range(1, 5):
        row, column = np.nonzero(labels == number)
        squares = shapely.box(column, row, column + 1, row + 1)
        hull = shapely.convex_hull(shapely.union_all(squares))
        assert found["solidity"][number - 1] == pytest.approx(row.size / hull.area)
