"""Tests of nuclei as objects: tiles do not affect the result, holes are filled, outlines and areas are correct."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from histomake.base.windows import Window
from histomake.cascade.levels import Level
from histomake.cascade.objects import (
    find_pieces,
    nuclei_of,
    without_holes,
    write_no_objects,
    write_objects,
)
from histomake.cells.files import outline
from histomake.cells.tile import Tile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage


def level_of(mask):
    return Level(1, 0.5, *mask.shape)


def pixels_of(mask):
    return lambda window: mask[window.slices]


def assembled(level, tile, part):
    """Assemble a mask or label image from its tiles."""
    out = np.zeros((level.height, level.width), np.int64)
    for window in level.blocks(tile):
        out[window.slices] = part(window)
    return out


masks = st.builds(
    lambda height, width, blur, seed: (
        ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), blur) > 0.5
    ),
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([0.1, 0.8, 2.0]),
    st.integers(0, 10_000),
)


@settings(max_examples=60, deadline=None)
@given(mask=masks, tile=st.sampled_from([8, 16, 100]))
def test_holes_are_filled_as_on_the_whole_slide(mask, tile):
    level = level_of(mask)
    filled = assembled(level, tile, without_holes(pixels_of(mask), level, tile=tile))
    np.testing.assert_array_equal(filled > 0, ndimage.binary_fill_holes(mask))


@settings(max_examples=60, deadline=None)
@given(mask=masks, tile=st.sampled_from([8, 16, 100]))
def test_components_equal_those_of_the_whole_slide(mask, tile):
    level = level_of(mask)
    pieces = find_pieces(pixels_of(mask), level, connectivity=8, tile=tile)
    labels = assembled(level, tile, pieces.labels)
    expected, number = ndimage.label(mask, np.ones((3, 3)))
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(expected))
    assert labels.max() == number


def test_nuclei_have_their_area_and_window_on_the_slide():
    labels = np.zeros((20, 30), np.int32)
    labels[2:8, 3:9] = 1
    labels[10:15, 20:28] = 2
    found = nuclei_of(Tile(Window(100, 200, 20, 30), labels, 2), 7)
    assert [(n.number, n.area) for n in found] == [(8, 36), (9, 40)]
    assert [n.window for n in found] == [Window(102, 203, 6, 6), Window(110, 220, 5, 8)]


def test_an_outline_follows_the_pixels_and_their_holes():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 2:8] = True
    mask[4, 4] = False
    area = outline(mask, corner=(10, 20), scale=2.0)
    # Outlines cut the corners of pixels: a quarter of half a pixel at each outer corner and around the hole.
    assert area.area == pytest.approx(4 * (7 * 6 - 4 * 0.125 - 0.5))
    assert area.bounds == (2 * 22, 2 * 11, 2 * 28, 2 * 18)
    assert not area.contains(shapely.Point(2 * 24.5, 2 * 14.5))


def test_the_geojson_has_a_valid_polygon_per_nucleus(tmp_path):
    labels = np.zeros((20, 30), np.uint32)
    labels[2:8, 3:9] = 1
    labels[10:15, 20:28] = 2
    labels[15, 28] = 2  # touches at a corner only
    probability = np.where(labels > 0, 204, 0).astype(np.uint8)
    nuclei = nuclei_of(Tile(Window(0, 0, *labels.shape), labels.astype(np.int32), 2), 0)
    write_objects(tmp_path / "n.geojson", nuclei, labels, probability, scale=1.0, mpp=0.5)
    features = json.loads((tmp_path / "n.geojson").read_text())["features"]
    assert [f["properties"]["measurements"]["area_um2"] for f in features] == [9.0, 10.25]
    assert {f["properties"]["measurements"]["probability"] for f in features} == {0.8}
    assert all(shapely.from_geojson(json.dumps(f["geometry"])).is_valid for f in features)


def test_a_slide_without_nuclei_gives_an_empty_collection(tmp_path):
    write_no_objects(tmp_path / "n.geojson")
    assert json.loads((tmp_path / "n.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


def test_numbers_start_at_the_top_left():
    mask = np.eye(6, dtype=bool) & (np.arange(6) % 2 == 0)
    labels = find_pieces(pixels_of(mask), level_of(mask), connectivity=8, tile=2).labels(Window(0, 0, 2, 2))
    assert labels[0, 0] == 1
