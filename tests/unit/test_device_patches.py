"""Patches that are cut from tiles on a device are those that `SlideReader.read` returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from histomake.config import Convert
from histomake.learn.data import device_patches
from histomake.learn.data.device_jpeg import reduce_tiles
from histomake.learn.data.device_patches import View, cut_patches, plan_cut
from histomake.slide.convert import convert
from histomake.slide.reader import SlideReader
from hypothesis import given, settings
from hypothesis import strategies as st
from slide_files import grid, reduced_grid, write_pyramid

from tests.bench.slides import big_slide


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> SlideReader:
    """A lossless coordinate grid of 1000 x 700 px, downsamples 1 and 4, 0.5 µm per pixel."""
    folder = tmp_path_factory.mktemp("places")
    source = write_pyramid(folder / "a.tif", [grid(1000, 700), reduced_grid(250, 175, 4)], compression="zlib")
    convert(source, folder / "a.zarr", slide_id="a", config=Convert(codec="zstd"))
    return SlideReader(folder / "a.zarr")


@pytest.fixture(scope="module")
def tissue(tmp_path_factory) -> SlideReader:
    """A slide of real tissue, 2404 px at 0.499 µm per pixel, with levels at downsamples 1, 4 and 16."""
    folder = tmp_path_factory.mktemp("tissue")
    convert(big_slide(folder, 2404), folder / "a.zarr", slide_id="a", config=Convert())
    return SlideReader(folder / "a.zarr")


def cut(reader: SlideReader, corners: list[tuple[int, int]], size: int, mpp: float) -> np.ndarray:
    """Patches cut by torch from tiles that the CPU has decoded whole."""
    x, y = np.array(corners, np.int64).T
    planned = plan_cut(reader, View(x, y, size, mpp))
    found = [reader.tile(planned.level, *place) for place in planned.tiles()]
    planned = planned.numbered([tile is not None for tile in found])
    height, width, _ = reader.levels[planned.level].tile_shape
    whole = np.array([tile for tile in found if tile is not None]).reshape(-1, height, width, 3)
    tiles = reduce_tiles(torch.from_numpy(whole).permute(0, 3, 1, 2), planned.reduction, (1, 1))
    return cut_patches(tiles, planned).numpy()


CORNERS = st.lists(st.tuples(st.integers(-300, 1100), st.integers(-300, 800)), min_size=1, max_size=6)


@given(CORNERS, st.integers(1, 300), st.sampled_from([0.5, 2.0]))
def test_unscaled_patches_are_the_same_to_the_bit_also_across_the_borders_of_the_slide(places, corners, size, mpp):
    assert np.array_equal(cut(places, corners, size, mpp), places.read_many(corners, size, mpp))


@settings(max_examples=30)
@given(CORNERS, st.integers(1, 200), st.sampled_from([0.3, 0.6, 0.75, 1.1, 1.7, 2.6, 5.0]))
def test_resampled_patches_differ_by_one_level_at_most(places, corners, size, mpp):
    found, expected = cut(places, corners, size, mpp), places.read_many(corners, size, mpp)
    assert np.abs(found.astype(int) - expected).max() <= 1


def tissue_patches(tissue: SlideReader, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Patches inside the slide and across its borders: as they are cut, and as they are read."""
    size = min(256, int(1000 * 0.499 / mpp))
    corners = [(700, 700), (700 + int(size * mpp / 0.499), 700), (911, 1003), (-40, 800), (2200, 1300)]
    return cut(tissue, corners, size, mpp), tissue.read_many(corners, size, mpp)


@pytest.mark.parametrize("mpp", [0.499, 0.8, 1.3, 1.7, 1.996, 7.984])
def test_patches_of_tissue_differ_by_two_levels_at_most(tissue, mpp):
    found, expected = tissue_patches(tissue, mpp)
    assert np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("mpp", [0.998, 2.7, 3.992, 5.0, 15.968])
def test_patches_of_tiles_that_the_reader_reduces_differ_where_tiles_are_saturated(tissue, mpp):
    """The reader cuts values off at white after the mean over pixels; a whole tile has been cut off before."""
    found, expected = tissue_patches(tissue, mpp)
    apart = np.abs(found.astype(int) - expected)
    assert (apart > 2).mean() < 0.02
    assert apart.mean() < 0.3


def test_patches_are_the_same_however_many_are_gathered_at_a_time(tissue, monkeypatch):
    corners = [(700 + 100 * i, 650) for i in range(7)]
    once = cut(tissue, corners, 128, 0.8)
    monkeypatch.setattr(device_patches, "GATHERED", 1)
    assert np.array_equal(cut(tissue, corners, 128, 0.8), once)


def test_empty_tiles_are_white(tmp_path):
    image = grid(512, 256)
    image[:, :256] = 255
    np.save(tmp_path / "a.npy", image)
    convert(tmp_path / "a.npy", tmp_path / "a.zarr", slide_id="a", config=Convert(codec="zstd"), mpp=0.5)
    with SlideReader(tmp_path / "a.zarr") as reader:
        assert reader.tile(0, 0, 0) is None
        assert cut(reader, [(0, 0)], 64, 0.5).min() == 255
        assert np.array_equal(cut(reader, [(200, 100)], 100, 0.5), reader.read_many([(200, 100)], 100, 0.5))


def test_only_tiles_that_a_patch_touches_are_needed(tissue):
    view = View(np.array([0, 2000]), np.array([0, 2000]), 256, 0.499)
    assert plan_cut(tissue, view).tiles() == [(0, 0), *[(row, column) for row in (7, 8) for column in (7, 8)]]
