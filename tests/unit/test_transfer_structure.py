"""Structures under a stain transfer: densities, nuclei that are invented or lost, seams and glass."""

from __future__ import annotations

import numpy as np
import pytest
from histomake.base.units import Mpp
from histomake.generate.seams import glass_change, seam_ratio
from histomake.generate.structure import Views, compare, haematoxylin, strange
from skimage.color import hed_from_rgb
from skimage.draw import disk

PINK, VIOLET = (225, 165, 195), (85, 55, 130)
EDGE = 256


def tissue_with(places, *, colours=(PINK, VIOLET), seed=0) -> np.ndarray:
    """Pink tissue with violet nuclei 8 px wide around the places."""
    image = np.full((EDGE, EDGE, 3), colours[0], float)
    for place in places:
        image[disk(place, 4, shape=(EDGE, EDGE))] = colours[1]
    return (image + np.random.default_rng(seed).normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)


def lattice(step, shift=0):
    return [(y, x) for y in range(20 + shift, EDGE - 12, step) for x in range(20 + shift, EDGE - 12, step)]


def compared(before, after, mpp=1.0):
    tissue = np.ones((EDGE, EDGE), bool)
    return compare(lambda: [Views(before, after, tissue)], Mpp(mpp))


def test_the_density_is_that_of_scikit_image():
    """`rgb2hed` takes logarithms of another base, which is a constant factor."""
    pixels = np.random.default_rng(0).integers(1, 255, (9, 7, 3)).astype(np.uint8)
    expected = -np.log10(pixels / 255) @ hed_from_rgb
    np.testing.assert_allclose(haematoxylin(pixels), expected[..., 0], atol=1e-4)


def test_other_colours_of_the_same_nuclei_invent_and_lose_none():
    nuclei = lattice(32)
    found = compared(tissue_with(nuclei), tissue_with(nuclei, colours=((240, 200, 210), (120, 100, 190)), seed=1))
    assert found.nuclei == found.match.nuclei == len(nuclei)
    assert (found.match.invented, found.match.lost) == (0, 0)
    assert found.match.dice > 0.95
    assert found.correlation > 0.9


def test_planted_nuclei_are_counted_as_invented():
    own, planted = lattice(32), lattice(32, shift=16)
    found = compared(tissue_with(own), tissue_with([*own, *planted], seed=1))
    assert found.match.invented == len(planted)
    assert found.invented == [len(planted)]
    assert found.match.lost == 0


def test_nuclei_that_are_gone_are_counted_as_lost():
    own = lattice(32)
    found = compared(tissue_with(own), tissue_with(own[::2], seed=1))
    assert found.match.lost == len(own) - len(own[::2])
    assert found.match.invented == 0


def test_glass_beside_tissue_has_no_nuclei():
    image = tissue_with(lattice(32))
    none = compare(lambda: [Views(image, image, np.zeros((EDGE, EDGE), bool))], Mpp(1.0))
    assert (none.tissue, none.nuclei, none.match.nuclei, none.correlation) == (0, 0, 0, None)


def test_nuclei_are_not_counted_where_pixels_are_too_coarse():
    found = compared(tissue_with(lattice(32)), tissue_with(lattice(32)), mpp=2.5)
    assert found.match is None
    assert found.correlation == pytest.approx(1)


def test_an_object_is_strange_with_less_than_a_quarter_in_others():
    labels, others = np.zeros((1, 8), np.int32), np.zeros((1, 8), np.int32)
    labels[0, :4], labels[0, 4:] = 1, 2
    others[0, 0] = 1
    assert strange(labels, others) == 1


def reading(image):
    return lambda x, y, width, height: image[y : y + height, x : x + width]


def textured(seed=0, size=1200):
    return np.random.default_rng(seed).integers(100, 140, (size, size, 3)).astype(np.uint8)


def everywhere(x, y, width, height):
    return np.ones((height, width), bool)


def test_an_image_without_seams_has_a_ratio_of_one():
    image = reading(textured())
    assert seam_ratio(image, image, everywhere, 1200, 1200) == pytest.approx(1)


@pytest.mark.parametrize("upright", [True, False])
def test_a_step_at_the_borders_of_windows_is_found(upright):
    image = textured()
    if upright:
        image[:, 512:] += 20
    else:
        image[512:] += 20
    assert seam_ratio(reading(image), reading(textured()), everywhere, 1200, 1200) > 1.05


def test_an_edge_of_the_tissue_at_a_border_is_no_seam():
    image = textured()
    image[:, 512:] += 20
    assert seam_ratio(reading(image), reading(image), everywhere, 1200, 1200) == pytest.approx(1)


def test_edges_of_blocks_are_no_seams():
    """Every sixteenth line differs, at borders of windows and elsewhere."""
    image = textured()
    image[:, ::16] += 20
    found = seam_ratio(reading(image), reading(textured()), everywhere, 1200, 1200)
    assert found == pytest.approx(1, abs=0.05)


def test_a_slide_of_one_window_has_no_seam():
    image = reading(textured(size=512))
    assert seam_ratio(image, image, everywhere, 512, 512) is None


def test_the_change_of_glass_is_measured_without_tissue():
    def left_half(x, y, width, height):
        return np.broadcast_to(np.arange(x, x + width) < 600, (height, width))

    before = textured()
    after = before.copy()
    after[:, :640] = 0
    after[:, 640:] += 2
    assert glass_change(reading(before), reading(after), left_half, 1200, 1200) == pytest.approx(2)
    assert glass_change(reading(before), reading(after), everywhere, 1200, 1200) is None
