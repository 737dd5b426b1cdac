"""Tests of parting: touching objects are parted, each is found once, and tiles do not change the objects."""

from __future__ import annotations

import numpy as np
import pytest
from histomake.base.windows import Window
from histomake.cells.parting import part, parted
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage


def discs(shape, centres, radius):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.any([(y - cy) ** 2 + (x - cx) ** 2 <= radius**2 for cy, cx in centres], axis=0)


def assembled(mask, **settings):
    """Put the tiles of a mask together: the numbers of its objects, and how many objects the tiles have."""
    found, total = np.zeros(mask.shape, np.int64), 0
    for tile in parted(lambda w: mask[w.slices], mask.shape, **settings):
        here = found[tile.window.slices]
        assert not (here[tile.labels > 0]).any(), "a pixel belongs to two objects"
        here[tile.labels > 0] = tile.labels[tile.labels > 0] + total
        total += tile.count
    return found, total


def same_objects(a, b):
    """Whether two label images have the same objects, whatever their numbers."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return pairs.shape[1] == np.unique(a).size == np.unique(b).size


def test_two_touching_discs_are_parted():
    mask = discs((40, 60), [(20, 20), (20, 38)], 10)
    assert ndimage.label(mask)[1] == 1
    labels, peaks = part(mask, depth=1)
    assert peaks.size == 2
    assert labels[20, 20] != labels[20, 38]
    assert np.array_equal(labels > 0, mask)
    areas = np.bincount(labels.ravel())[1:]
    assert abs(areas[0] - areas[1]) <= 0.05 * areas.sum()


def test_an_oval_is_not_parted():
    y, x = np.mgrid[:40, :60]
    assert part(((y - 20) / 9) ** 2 + ((x - 30) / 22) ** 2 <= 1, depth=1)[1].size == 1


def test_a_neck_is_parted_only_if_it_is_narrower_by_the_depth():
    mask = discs((40, 60), [(20, 20), (20, 34)], 10)
    assert part(mask, depth=1)[1].size == 2
    assert part(mask, depth=8)[1].size == 1


def test_a_piece_thinner_than_the_depth_is_one_object():
    mask = np.zeros((9, 40), bool)
    mask[4, 3:30] = True
    labels, peaks = part(mask, depth=3)
    assert peaks.size == 1
    assert np.array_equal(labels > 0, mask)


def test_a_mask_without_background_is_one_object():
    labels, peaks = part(np.ones((6, 7), bool), depth=1)
    assert peaks.size == 1
    assert (labels == 1).all()


def test_an_empty_mask_has_no_object():
    mask = np.zeros((30, 30), bool)
    assert part(mask, depth=1)[1].size == 0
    assert list(parted(lambda w: mask[w.slices], mask.shape, depth=1, tile=8)) == []


@pytest.mark.parametrize("centre", [(32, 32), (32, 20), (31, 63), (0, 32), (63, 63)])
def test_an_object_on_the_border_of_tiles_is_found_once(centre):
    mask = discs((64, 64), [centre], 7)
    found, total = assembled(mask, depth=1, tile=32, margins=(16,))
    assert total == 1
    assert np.array_equal(found > 0, mask)


def test_small_objects_are_left_out():
    mask = discs((40, 60), [(20, 20)], 8)
    mask[5, 50] = True
    found, total = assembled(mask, depth=1, least=5)
    assert total == 1
    assert not found[5, 50]


blobs = st.builds(
    lambda height, width, blur, level, seed: (
        ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), blur)
        > 0.5 + level * 0.1 / max(blur, 0.5)
    ),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([0.4, 1.0, 2.0, 3.0]),
    st.sampled_from([-1, 0, 0.5, 1]),
    st.integers(0, 10_000),
)


depths = st.sampled_from([0.5, 1, 2])


@settings(max_examples=80, deadline=None)
@given(
    mask=blobs, tile=st.sampled_from([8, 17, 32]), first=st.sampled_from([0, 2, 9]), depth=st.sampled_from([0.5, 1, 2])
)
def test_tiles_do_not_change_the_objects(mask, tile, first, depth):
    whole, count = assembled(mask, depth=depth, tile=100)
    tiles, total = assembled(mask, depth=depth, tile=tile, margins=(first, 100))
    assert total == count
    assert same_objects(whole, tiles)


@settings(max_examples=60, deadline=None)
@given(mask=blobs, depth=depths)
def test_every_pixel_of_the_mask_belongs_to_one_connected_object(mask, depth):
    labels, peaks = part(mask, depth=depth)
    assert np.array_equal(labels > 0, mask)
    for number in range(1, peaks.size + 1):
        assert ndimage.label(labels == number, np.ones((3, 3)))[1] == 1
        assert labels.ravel()[peaks[number - 1]] == number


@settings(max_examples=40, deadline=None)
@given(mask=blobs, other=blobs)
def test_an_object_does_not_depend_on_other_pieces(mask, other):
    # What lies beyond the edge of an array is unknown, so the other edges are the same for both.
    mask = np.pad(mask, ((0, 0), (1, 0)))
    other = other[: mask.shape[0]]
    labels, _ = part(mask, depth=1)
    both = np.zeros((mask.shape[0], other.shape[1] + mask.shape[1]), bool)
    both[: other.shape[0], : other.shape[1]] = other
    both[:, other.shape[1] :] = mask
    again, _ = part(both, depth=1)
    assert same_objects(labels, again[:, other.shape[1] :])


def test_ten_thousand_cells_of_a_mosaic_are_counted_exactly():
    """Discs of three sizes that touch their neighbours, on a lattice that no border of tiles is aligned with."""
    edge, radius = 100, 6
    cell = discs((13, 13), [(6, 6)], radius)
    size = edge * 13
    mask = np.tile(cell, (edge, edge))
    assert ndimage.label(mask, np.ones((3, 3)))[1] < edge**2
    found, total = assembled(mask, depth=1, tile=256)
    assert mask.shape == (size, size)
    assert total == edge**2
    centres = found[6::13, 6::13]
    assert np.unique(centres).size == edge**2


def test_a_window_is_cut_to_the_grid():
    assert Window(0, 5, 10, 10).grown(3, 3).cut_to((12, 14)) == Window(0, 2, 12, 12)
