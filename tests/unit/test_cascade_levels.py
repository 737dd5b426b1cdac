"""Tests of the levels of a cascade: mirroring, upsampling and reading depend only on the position."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from cascade_slide import DiscReader, discs, levels
from histomake.base.windows import Window
from histomake.cascade.levels import levels_of, mirrored, nearest, read_window, support, upsample
from hypothesis import given, settings
from hypothesis import strategies as st


@given(size=st.integers(1, 40), before=st.integers(0, 100), after=st.integers(0, 100))
def test_mirroring_is_symmetric_padding(size, before, after):
    expected = np.pad(np.arange(size), (before, after), mode="symmetric")
    np.testing.assert_array_equal(mirrored(-before, before + size + after, size), expected)


def test_levels_cover_the_slide_at_their_own_resolution():
    found = levels_of(width=320, height=256, mpp=0.5, finest_mpp=0.5, scales=(1, 0.5, 0.25, 0.1))
    assert [(lv.number, lv.width, lv.height) for lv in found] == [
        (1, 320, 256),
        (2, 160, 128),
        (3, 80, 64),
        (4, 32, 26),
    ]
    assert [lv.mpp for lv in found] == [0.5, 1, 2, 5]


def test_a_finer_slide_is_resampled_to_the_resolution_of_the_cascade():
    (level,) = levels_of(width=1000, height=500, mpp=0.25, finest_mpp=0.5, scales=(1,))
    assert (level.width, level.height) == (500, 250)


@settings(deadline=None)
@given(
    ratio=st.sampled_from([2.0, 2.5, 4.0]),
    y=st.integers(0, 30),
    x=st.integers(0, 30),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_upsampling_a_window_is_a_window_of_the_upsampled_whole(ratio, y, x, height, width, seed):
    coarse = np.random.default_rng(seed).random((2, 21, 23), np.float32)
    whole = Window(0, 0, 50, 50)
    everything = upsample(coarse, ratio=ratio, window=whole, region=Window(0, 0, 21, 23), size=(21, 23))
    window = Window(y, x, height, width)
    region = support(window, ratio=ratio, size=(21, 23))
    part = upsample(coarse[:, *region.slices], ratio=ratio, window=window, region=region, size=(21, 23))
    np.testing.assert_array_equal(part, everything[:, *window.slices])


def test_upsampling_is_bilinear_between_pixel_centres():
    coarse = np.random.default_rng(0).random((1, 8, 9), np.float32)
    whole = Window(0, 0, 16, 18)
    found = upsample(coarse, ratio=2, window=whole, region=Window(0, 0, 8, 9), size=(8, 9))
    np.testing.assert_allclose(found[0], cv2.resize(coarse[0], (18, 16), interpolation=cv2.INTER_LINEAR), atol=1e-6)


def test_a_fine_pixel_belongs_to_the_coarse_pixel_that_contains_its_centre():
    assert nearest(0, 10, ratio=2.5, size=4).tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("mpp", [0.25, 0.37, 0.498])
def test_a_resampled_pixel_is_the_same_in_every_window(mpp):
    image, _ = discs(700, 800)
    reader = DiscReader(image, mpp)
    (level,) = levels_of(width=800, height=700, mpp=mpp, finest_mpp=0.5, scales=(1,))
    whole = read_window(reader, level, Window(0, 0, level.height, level.width))
    for window in (Window(3, 5, 40, 50), Window(120, 201, 60, 70), Window(250, 101, 31, 9)):
        np.testing.assert_array_equal(read_window(reader, level, window), whole[window.slices])


@pytest.mark.parametrize("window", [Window(-20, -30, 64, 64), Window(90, 100, 64, 64), Window(30, 40, 16, 8)])
def test_pixels_beyond_the_slide_are_mirrored(window):
    image, _ = discs(128, 144)
    finest = levels(128, 144)[0]
    expected = image[np.ix_(mirrored(window.y, window.height, 128), mirrored(window.x, window.width, 144))]
    np.testing.assert_array_equal(read_window(DiscReader(image), finest, window), expected)
    assert read_window(DiscReader(image), finest, window).shape == (window.height, window.width, 3)
