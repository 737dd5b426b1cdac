"""Tests of area shares: polygons against shapely for every cell, rasters against pixel counts."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from histomake.annotation.coverage import interval_weights, mask_shares, polygon_shares
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.affinity import translate


def by_shapely(geometry, columns, rows, span):
    """Intersect every cell with shapely: slow reference implementation."""
    return np.array(
        [[geometry.intersection(shapely.box(x, y, x + span, y + span)).area / span**2 for x in columns] for y in rows]
    )


@st.composite
def shapes(draw):
    """Draw a union of random star-shaped polygons, some with holes, some partly outside the slide."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts = []
    for _ in range(draw(st.integers(1, 5))):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 40)))
        radii = rng.uniform(5, 120, angles.size)
        star = shapely.make_valid(shapely.Polygon(np.c_[np.cos(angles) * radii, np.sin(angles) * radii]))
        star = translate(star, *rng.uniform(-50, 550, 2))
        parts.append(star.difference(translate(star, 9, 7)) if rng.random() < 0.3 else star)
    polygons = [p for p in shapely.get_parts(shapely.union_all(parts)) if p.geom_type == "Polygon"]
    return shapely.union_all(polygons)


@settings(max_examples=60, deadline=None)
@given(shapes(), st.sampled_from([20.0, 37.3, 64.0]), st.sampled_from([20, 33, 64, 90]))
def test_polygon_shares_equal_those_of_shapely_on_any_grid(geometry, span, stride):
    columns = np.arange(0, 500, stride)
    rows = np.floor(np.arange(0, 400, stride * 1.1) + 0.5)
    shares = polygon_shares(geometry, columns, rows, span)
    np.testing.assert_allclose(shares, by_shapely(geometry, columns, rows, span), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(shapes())
def test_shares_of_a_partition_add_up_to_the_area_inside(geometry):
    edges = np.arange(0, 480, 32)
    inside = geometry.intersection(shapely.box(0, 0, 480, 480)).area
    assert polygon_shares(geometry, edges, edges, 32.0).sum() * 32**2 == pytest.approx(inside, rel=1e-5, abs=0.1)


def test_a_hole_is_not_covered():
    ring = shapely.box(0, 0, 100, 100) - shapely.box(25, 25, 75, 75)
    shares = polygon_shares(ring, np.array([0, 25, 50]), np.array([25]), 25.0)
    np.testing.assert_allclose(shares, [[1, 0, 0]])


def test_edges_on_cell_borders_add_no_area_to_adjacent_cells():
    shares = polygon_shares(shapely.box(64, 64, 128, 128), np.array([0, 64, 128]), np.array([0, 64, 128]), 64.0)
    np.testing.assert_array_equal(shares, [[0, 0, 0], [0, 1, 0], [0, 0, 0]])


@pytest.mark.parametrize("geometry", [shapely.Polygon(), shapely.box(900, 900, 950, 950), shapely.box(-9, -9, -1, -1)])
def test_geometry_off_the_grid_covers_nothing(geometry):
    assert not polygon_shares(geometry, np.arange(0, 500, 50), np.arange(0, 500, 50), 50.0).any()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1.0, 2.0, 16.03]),
    st.sampled_from([8.0, 31.7, 64.0]),
    st.integers(3, 70),
)
def test_mask_shares_equal_shares_of_the_pixels_as_polygons(seed, downsample, span, stride):
    mask = np.random.default_rng(seed).random((9, 12)) > 0.5
    pixels = [
        shapely.box(x * downsample, y * downsample, (x + 1) * downsample, (y + 1) * downsample)
        for y, x in np.argwhere(mask)
    ]
    columns, rows = np.arange(0, 12 * downsample, stride), np.arange(0, 9 * downsample, stride)
    shares = mask_shares(mask, columns, rows, span, downsample_x=downsample, downsample_y=downsample)
    expected = by_shapely(shapely.union_all(pixels), columns, rows, span)
    np.testing.assert_allclose(shares, expected, atol=1e-6)


def test_weights_of_an_interval_on_the_raster_sum_to_one():
    weights = interval_weights(np.array([0, 7, 20]), 9.5, 40, 1.5)
    np.testing.assert_allclose(np.asarray(weights.sum(axis=1)).ravel(), 1)
