"""Tests of label crops: pixel centres decide, smaller regions are on top, offsets and scales are consistent."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from histomake.annotation.model import Annotation, LabelImage
from histomake.annotation.raster import area_shares, labels_at, rasterise
from hypothesis import given, settings
from hypothesis import strategies as st

NAMES = ("necrosis", "stroma", "tumor")


def star(seed, centre=(50.0, 50.0), radius=45.0):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 30)))
    radii = rng.uniform(0.2, 1, angles.size) * radius
    points = np.c_[np.cos(angles) * radii, np.sin(angles) * radii] + centre
    return shapely.make_valid(shapely.Polygon(points))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(-30, 30), st.integers(-30, 30), st.sampled_from([0.5, 1.0, 1.7, 4.0]))
def test_a_pixel_is_labelled_if_its_centre_is_inside(seed, x, y, scale):
    region = star(seed) - shapely.box(45.3, 45.3, 51.7, 51.7)
    labels = rasterise(Annotation(NAMES, [("tumor", region)]), x, y, 48, scale)
    centres = (np.arange(48) + 0.5) * scale
    inside = shapely.contains_xy(region, *np.meshgrid(x + centres, y + centres))
    np.testing.assert_array_equal(labels, np.where(inside, 3, 0))


def test_the_smaller_of_overlapping_regions_is_on_top_in_any_order():
    tumour, necrosis = ("tumor", shapely.box(0, 0, 64, 64)), ("necrosis", shapely.box(16, 16, 32, 32))
    for regions in ([tumour, necrosis], [necrosis, tumour]):
        labels = rasterise(Annotation(NAMES, regions), 0, 0, 64, 1.0)
        assert labels[20, 20] == 1
        assert labels[40, 40] == 3


def test_adjacent_crops_join_without_gap():
    annotation = Annotation(NAMES, [("tumor", star(1)), ("stroma", star(2, (70, 40)))])
    whole = rasterise(annotation, 0, 0, 100, 1.0)
    quarters = np.block([[rasterise(annotation, x, y, 50, 1.0) for x in (0, 50)] for y in (0, 50)])
    np.testing.assert_array_equal(whole, quarters)


def test_pixels_far_from_any_region_are_unlabelled():
    assert not rasterise(Annotation(NAMES, [("tumor", star(1))]), 5000, 5000, 32, 1.0).any()
    assert not rasterise(Annotation(NAMES, []), 0, 0, 32, 1.0).any()


@pytest.mark.parametrize(("downsample", "scale"), [(1, 1.0), (4, 1.0), (2, 3.0)])
def test_a_label_image_is_sampled_at_pixel_centres_and_empty_outside(downsample, scale):
    values = np.random.default_rng(0).integers(0, 4, (40, 50), np.uint8)
    labels = rasterise(Annotation(NAMES, [], LabelImage(values, downsample)), -10, -5, 64, scale)
    for row, column in [(0, 0), (10, 20), (30, 33), (63, 63)]:
        y = int((-5 + (row + 0.5) * scale) // downsample)
        x = int((-10 + (column + 0.5) * scale) // downsample)
        expected = values[y, x] if 0 <= y < 40 and 0 <= x < 50 else 0
        assert labels[row, column] == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 4]), st.sampled_from([16.0, 21.5, 40.0]))
def test_area_shares_of_a_label_image_equal_its_histogram(seed, downsample, span):
    values = np.random.default_rng(seed).integers(0, 4, (32, 48), np.uint8)
    annotation = Annotation(NAMES, [], LabelImage(values, downsample))
    columns, rows = np.arange(0, 48 * downsample, 23), np.arange(0, 32 * downsample, 19)
    full = np.kron(values, np.ones((downsample, downsample), np.uint8))
    # With pixels enlarged eightfold, every span is a whole number of pixels (16, 21.5 and 40 are multiples of 1/8).
    fine = np.kron(full, np.ones((8, 8), np.uint8))
    for number, shares in enumerate(area_shares(annotation, NAMES, columns, rows, span).values(), 1):
        for j, y in enumerate(rows):
            for i, x in enumerate(columns):
                part = fine[y * 8 : int(y * 8 + span * 8), x * 8 : int(x * 8 + span * 8)]
                assert shares[j, i] == pytest.approx((part == number).sum() / (span * 8) ** 2, abs=1e-5)


def test_tiles_of_a_large_label_image_join_without_a_seam(monkeypatch):
    values = np.random.default_rng(0).integers(0, 4, (300, 200), np.uint8)
    annotation = Annotation(NAMES, [], LabelImage(values, 2))
    columns, rows, points = np.arange(0, 400, 37), np.arange(0, 600, 41), np.arange(3, 390, 7)
    whole = area_shares(annotation, NAMES, columns, rows, 50.5), labels_at(annotation, ["tumor"], points, points)
    monkeypatch.setattr("histomake.annotation.raster.MASK_TILE", 32)
    tiled = area_shares(annotation, NAMES, columns, rows, 50.5), labels_at(annotation, ["tumor"], points, points)
    for name in NAMES:
        np.testing.assert_allclose(tiled[0][name], whole[0][name], atol=1e-6)
    np.testing.assert_array_equal(tiled[1], whole[1])


def test_overlapping_regions_of_one_class_count_once():
    annotation = Annotation(NAMES, [("tumor", shapely.box(0, 0, 10, 10)), ("tumor", shapely.box(5, 0, 15, 10))])
    shares = area_shares(annotation, ["tumor"], np.array([0]), np.array([0]), 20.0)
    assert shares["tumor"][0, 0] == pytest.approx(150 / 400)


def test_points_are_looked_up_in_regions_and_in_label_images():
    regions = Annotation(NAMES, [("tumor", shapely.box(10, 10, 20, 20)), ("stroma", shapely.box(30, 10, 40, 20))])
    values = np.zeros((50, 50), np.uint8)
    values[10:20, 10:20], values[10:20, 30:40] = 3, 2
    image = Annotation(NAMES, [], LabelImage(values, 1))
    x, y = np.array([15.5, 35.5, 25.5, -3.0, 70.0]), np.full(5, 15.5)
    for annotation in (regions, image):
        assert labels_at(annotation, ["tumor"], x, y).tolist() == [True, False, False, False, False]
        assert labels_at(annotation, ["tumor", "stroma"], x, y).tolist() == [True, True, False, False, False]
        assert not labels_at(annotation, ["absent"], x, y).any()
