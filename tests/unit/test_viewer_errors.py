"""Tiles of the differences between a segmentation and the annotation."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from histomake.annotation.model import Annotation
from histomake.viewer import errors
from histomake.viewer.masks import TILE, Mask

from tests import sample_records
from tests.marked_slide import MARKED, SLIDE, SPAN, make_results, patch_positions

RIGHT, MISSED, EXTRA, OTHER = (list(errors.KINDS).index(name) + 1 for name in errors.KINDS)
CLASSES = ["tumour", "stroma"]


def compared(found: np.ndarray, drawn: list[tuple[str, shapely.Geometry]], **values) -> errors.ErrorMask:
    """A segmentation of 2 level-0 pixels per pixel, all of it predicted, and regions in level-0 pixels."""
    annotation = Annotation(tuple(CLASSES), drawn)
    settings = {"corners": np.zeros((1, 2)), "span": float(len(found)), "everywhere": True} | values
    return errors.ErrorMask(Mask([found], 2.0, CLASSES), annotation, np.array([0, 1, 2], np.uint8), **settings)


def test_each_pixel_is_right_missed_extra_or_of_another_class():
    found = np.zeros((8, 8), np.uint8)
    found[0:4, 0:4], found[4:8, 0:4] = 1, 2
    mask = compared(found, [("tumour", shapely.box(4, 0, 12, 16))])
    expected = np.zeros((8, 8), np.uint8)
    expected[0:4, 0:2], expected[4:8, 0:2] = EXTRA, EXTRA
    expected[0:4, 2:4], expected[4:8, 2:4], expected[:, 4:6] = RIGHT, OTHER, MISSED
    np.testing.assert_array_equal(mask.tile(0, 0, 0), expected)


def test_nothing_is_said_of_pixels_without_prediction():
    mask = compared(
        np.zeros((8, 8), np.uint8), [("tumour", shapely.box(0, 0, 16, 16))], corners=np.array([[4.0, 2.0]]), span=3.0
    )
    expected = np.zeros((8, 8), np.uint8)
    expected[2:5, 4:7] = MISSED
    np.testing.assert_array_equal(mask.tile(0, 0, 0), expected)


def test_without_a_background_class_only_annotated_pixels_are_compared():
    mask = compared(np.ones((8, 8), np.uint8), [("tumour", shapely.box(0, 0, 4, 16))], everywhere=False)
    expected = np.zeros((8, 8), np.uint8)
    expected[:, :2] = RIGHT
    np.testing.assert_array_equal(mask.tile(0, 0, 0), expected)


@pytest.mark.parametrize("level", [0, 1])
def test_tiles_of_all_levels_show_the_same_places(level):
    found = np.zeros((2 * TILE, 2 * TILE), np.uint8)
    found[TILE : TILE + 64, TILE + 128 : TILE + 256] = 1
    mask = compared(found, [("tumour", shapely.box(2 * TILE + 384, 2 * TILE, 2 * TILE + 512, 2 * TILE + 128))])
    step = 2**level
    tile = mask.tile(level, 1 - level, 1 - level)
    corner = TILE // step if level else 0
    y, x = (slice(corner + low // step, corner + high // step) for low, high in ((0, 64), (128, 192)))
    assert (tile[y, x] == EXTRA).all()
    x = slice(corner + 192 // step, corner + 256 // step)
    assert (tile[y, x] == RIGHT).all()
    assert np.count_nonzero(tile) == 64 * 128 / step**2


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("compared"))


def test_errors_of_a_segmentation_are_a_layer_with_colours_of_their_own(layout):
    (layer,) = errors.describe(layout, SLIDE)
    assert (layer["task"], layer["fold"], layer["title"]) == ("pixel_map.errors", 0, "errors: pixel_map, fold 0")
    assert len(layer["colours"]) == len(layer["classes"]) == 4
    x, y = np.array(patch_positions()[MARKED]) // 2
    tile = errors.open_layer(layout, SLIDE, "pixel_map.errors", 0).tile(0, y // TILE, x // TILE)
    inside = tile[y % TILE : y % TILE + SPAN // 2, x % TILE : x % TILE + SPAN // 2]
    assert (inside == RIGHT).all()
    assert np.count_nonzero(tile) == inside.size


def test_a_slide_that_is_not_annotated_has_no_layer_of_errors(tmp_path):
    layout = make_results(tmp_path)
    sample_records.no_annotation(SLIDE).write(layout.annotation(SLIDE))
    assert errors.describe(layout, SLIDE) == []
