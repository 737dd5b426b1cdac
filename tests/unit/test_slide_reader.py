"""Tests of patch reading: position, scale, padding, and one reader shared by threads and processes."""

from __future__ import annotations

import copy
import io
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from histomake.base.errors import Reason, SlideError
from histomake.base.records.record import Quarantined
from histomake.config import Convert
from histomake.slide import store as store_module
from histomake.slide.convert import convert
from histomake.slide.reader import SlideReader, open_slide
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.registration import phase_cross_correlation
from slide_files import block_places, crops, expected_places, grid, reduced_grid, write_pyramid
from torchvision.io import decode_jpeg

from tests.bench.slides import big_slide


@pytest.fixture(scope="module", params=["RGB", "YCBCR"])
def tissue(request, tmp_path_factory) -> SlideReader:
    """A slide of real tissue, 2404 px, with levels at downsamples 1, 4 and 16."""
    folder = tmp_path_factory.mktemp("tissue")
    convert(big_slide(folder, 2404, colour=request.param), folder / "a.zarr", slide_id="a", config=Convert())
    return SlideReader(folder / "a.zarr")


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> SlideReader:
    """A lossless coordinate grid of 1000 x 700 px, downsamples 1 and 4, 0.5 µm per pixel."""
    folder = tmp_path_factory.mktemp("places")
    source = write_pyramid(folder / "a.tif", [grid(1000, 700), reduced_grid(250, 175, 4)], compression="zlib")
    convert(source, folder / "a.zarr", slide_id="a", config=Convert(codec="zstd"))
    return SlideReader(folder / "a.zarr")


@given(x=st.integers(-300, 1100), y=st.integers(-300, 800), width=st.integers(1, 400), height=st.integers(1, 400))
def test_a_patch_shows_its_position_and_white_outside_the_slide(places, x, y, width, height):
    patch = places.read(x, y, (width, height), 0.5)
    assert patch.shape == (height, width, 3)
    rows, columns = np.mgrid[y : y + height, x : x + width]
    inside = (rows >= 0) & (rows < 700) & (columns >= 0) & (columns < 1000)
    for found, wanted in zip(block_places(patch), expected_places(x, y, width, height), strict=True):
        assert np.array_equal(found[inside], wanted[inside])
    assert np.all(patch[~inside] == 255)


@given(x=st.integers(0, 150), y=st.integers(0, 100))
def test_a_patch_of_a_lower_level_shows_its_position(places, x, y):
    patch = places.read(4 * x, 4 * y, 60, 2.0)
    for found, wanted in zip(block_places(patch), expected_places(x, y, 60, 60, 4), strict=True):
        assert np.array_equal(found, wanted)


@given(st.floats(0.2, 9), st.integers(1, 300))
def test_a_patch_has_the_requested_size_at_any_scale(tissue, mpp, size):
    assert tissue.read(900, 900, (size, size + 3), mpp).shape == (size + 3, size, 3)


def area_mean(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Return 128 means along the first axis over adjacent boxes of ``scale`` pixels, which may be fractional."""
    summed = np.concatenate([np.zeros_like(pixels[:1]), np.cumsum(pixels, axis=0)])
    edges = np.arange(129) * scale
    whole = edges.astype(int)
    at = summed[whole] + (edges - whole)[:, None, None] * pixels[np.minimum(whole, len(pixels) - 1)]
    return (at[1:] - at[:-1]) / scale


@pytest.mark.parametrize("mpp", [0.6, 0.75, 0.998, 1.3, 1.996, 3.0, 5.0])
def test_a_coarser_patch_is_the_mean_of_the_pixels_it_covers(tissue, mpp):
    """Read from level 0 only, so that only resampling is compared. The bound of 2 grey levels is from issue 3."""
    tissue.levels, levels = tissue.levels[:1], tissue.levels
    try:
        patch = tissue.read(800, 640, 128, mpp)
    finally:
        tissue.levels = levels
    scale = mpp / 0.499
    full = tissue.read_level(0, 800, 640, int(128 * scale) + 1, int(128 * scale) + 1).astype(np.float64)
    mean = area_mean(area_mean(full, scale).swapaxes(0, 1), scale).swapaxes(0, 1)
    assert np.abs(patch.astype(int) - mean).mean() < 2


def test_read_many_equals_repeated_read(tissue):
    places = [(-50, -50), (700, 811), (2300, 2300), (5000, 5000)]
    together = tissue.read_many(places, 200, 0.7)
    assert together.shape == (4, 200, 200, 3)
    for patch, (x, y) in zip(together, places, strict=True):
        assert np.array_equal(patch, tissue.read(x, y, 200, 0.7))
    assert together[3].min() == 255


@settings(max_examples=20)
@given(
    corners=st.lists(st.tuples(st.integers(-300, 2500), st.integers(-300, 2500)), max_size=6),
    size=st.integers(1, 300),
    mpp=st.sampled_from([0.499, 0.7, 0.998, 2.0, 3.0]),
)
def test_patches_that_share_tiles_have_the_pixels_of_patches_read_alone(tissue, corners, size, mpp):
    neighbours = [place for x, y in corners for place in ((x, y), (x + 60, y + 190))]
    together = tissue.read_many(neighbours, (size, size + 5), mpp)
    for patch, (x, y) in zip(together, neighbours, strict=True):
        assert np.array_equal(patch, tissue.read(x, y, (size, size + 5), mpp))


@pytest.fixture
def decoded(monkeypatch) -> list[tuple[int, int]]:
    """Row and column of every tile that any reader decodes."""
    tiles = []

    def counted(self, index, row, column, *rest, decode=SlideReader._decoded):
        tiles.append((row, column))
        return decode(self, index, row, column, *rest)

    monkeypatch.setattr(SlideReader, "_decoded", counted)
    return tiles


def test_a_batch_decodes_each_tile_once(tissue, decoded):
    tissue.read_many([(x, y) for y in (300, 556, 812) for x in (300, 556, 812)], 256, 0.499)
    assert sorted(decoded) == [(row, column) for row in range(1, 5) for column in range(1, 5)]


def test_tiles_are_kept_no_longer_than_patches_need_them(tissue):
    places = [(x, y) for y in (300, 556) for x in (300, 556)]
    shared = tissue.share(places, 256, 0.499)
    for read, (x, y) in enumerate(places, start=1):
        tissue.read(x, y, 256, 0.499, shared=shared)
        kept = [tile for tile in np.ndindex(4, 4) if (0, 1, *tile) in shared]
        assert kept == [[(1, 2), (2, 1), (2, 2)], [(2, 1), (2, 2), (2, 3)], [(2, 2), (2, 3), (3, 2)], []][read - 1]


def test_damage_that_only_a_neighbour_needs_fails_the_neighbour_alone(tissue, monkeypatch):
    def fails_below(self, index, row, column, data, reduction, rows, decode=SlideReader._decoded):
        if (row, column) == (1, 1) and rows > 100:
            raise self._error("damaged")
        return decode(self, index, row, column, data, reduction, rows)

    monkeypatch.setattr(SlideReader, "_decoded", fails_below)
    shared = tissue.share([(256, 200), (256, 300)], 128, 0.499)
    patch = tissue.read(256, 200, 128, 0.499, shared=shared)
    assert np.array_equal(patch, tissue.read(256, 200, 128, 0.499))
    with pytest.raises(SlideError, match="damaged"):
        tissue.read(256, 300, 128, 0.499, shared=shared)


@pytest.mark.parametrize("mpp", [0.499, 0.8, 2.0, 3.7, 8.0, 30.0])
def test_the_whole_slide_has_the_documented_size(tissue, mpp):
    whole = tissue.read_whole(mpp)
    side = int(np.ceil(2404 * 0.499 / mpp - 1e-9))
    assert whole.shape == (side, side, 3)
    assert whole[side // 2, side // 2].min() < 250


def test_a_slide_read_in_strips_has_no_seams(tissue, monkeypatch):
    once = tissue.read_whole(1.3)
    monkeypatch.setattr("histomake.slide.reader.STRIP_BYTES", 1 << 19)
    assert np.abs(tissue.read_whole(1.3).astype(int) - once).mean() < 1.5


def test_levels_are_aligned_to_a_quarter_of_a_pixel(tissue):
    for mpp in (0.998, 1.996, 3.992):
        coarse = tissue.read(640, 960, 128, mpp).mean(axis=2)
        span = round(128 * mpp / 0.499)
        fine = cv2.resize(tissue.read_level(0, 640, 960, span, span), (128, 128), interpolation=cv2.INTER_AREA)
        shift, *_ = phase_cross_correlation(fine.mean(axis=2), coarse, upsample_factor=50)
        assert np.abs(shift).max() < 0.25


def test_a_fractional_ratio_of_sizes_does_not_shift_the_far_edge(tmp_path):
    """2403 / 150 is 16.02. Used as the downsample, it would shift the far corner by three level-0 pixels."""
    source = big_slide(tmp_path, 2403)
    convert(source, tmp_path / "a.zarr", slide_id="a", config=Convert())
    with SlideReader(tmp_path / "a.zarr") as reader:
        assert [level.downsample for level in reader.levels] == [1.0, 4.0, 16.0]
        coarse = reader.read(1440, 1120, 40, 0.499 * 16).mean(axis=2)
        fine = cv2.resize(reader.read_level(0, 1440, 1120, 640, 640), (40, 40), interpolation=cv2.INTER_AREA)
    shift, *_ = phase_cross_correlation(fine.mean(axis=2), coarse, upsample_factor=50)
    assert np.abs(shift).max() < 0.25


def test_threads_share_a_reader(tissue):
    alone = crops(tissue)
    with ThreadPoolExecutor(4) as pool:
        for together in pool.map(lambda _: crops(tissue), range(8)):
            assert np.array_equal(together, alone)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_reader(method, tissue):
    alone = crops(tissue)
    with multiprocessing.get_context(method).Pool(2) as pool:
        for together in pool.map(crops, [tissue, tissue]):
            assert np.array_equal(together, alone)


def test_a_copied_reader_reopens_its_store(tissue):
    copied = copy.copy(tissue)
    tissue.close()
    assert np.array_equal(copied.read(700, 700, 64, 1.0), tissue.read(700, 700, 64, 1.0))


def test_the_number_of_open_shards_is_bounded(tmp_path):
    np.save(tmp_path / "a.npy", grid(2048, 2048))
    convert(tmp_path / "a.npy", tmp_path / "a.zarr", slide_id="a", config=Convert(tile_px=64, shard_px=512), mpp=0.5)
    descriptors = Path("/proc/self/fd")
    readers = [SlideReader(tmp_path / "a.zarr") for _ in range(20)]
    before = len(list(descriptors.iterdir()))
    for reader in readers:
        reader.read_level(0, 0, 0, 2048, 2048)
    assert len(list(descriptors.iterdir())) - before <= store_module.OPEN_SHARDS


@settings(max_examples=40)
@given(st.integers(1, 256))
def test_decoding_only_the_first_rows_does_not_change_them(tissue, rows):
    level = tissue.levels[0]
    data = tissue._store.tile(0, 4, 4)
    whole = level.coding.decode(data, level.tile_shape)
    assert np.array_equal(level.coding.decode(data, level.tile_shape, rows=rows)[:rows], whole[:rows])


@settings(max_examples=40)
@given(st.integers(1, 128), st.sampled_from([2, 4, 8]))
def test_reduced_decoding_of_only_the_first_rows_does_not_change_them(tissue, rows, factor):
    level, rows = tissue.levels[0], max(1, rows * 2 // factor)
    data = tissue._store.tile(0, 4, 4)
    whole = level.coding.decode_reduced(data, level.tile_shape, factor)
    assert whole.shape == (256 // factor, 256 // factor, 3)
    part = level.coding.decode_reduced(data, level.tile_shape, factor, rows=rows)[:rows]
    assert np.array_equal(part, whole[:rows])


def test_exported_tiles_have_the_right_colours_in_any_decoder(tissue):
    """nvJPEG and other decoders do not see TIFF tags, so a marker in each RGB tile must state the colour space."""
    level = tissue.levels[0]
    (file, absent) = tissue.encoded_tiles(0, [(4, 5), (0, 0)])
    truth = tissue.read_level(0, 5 * level.tile_width, 4 * level.tile_height, level.tile_width, level.tile_height)
    by_pillow = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    by_torch = decode_jpeg(torch.frombuffer(bytearray(file), dtype=torch.uint8)).permute(1, 2, 0).numpy()
    assert np.array_equal(by_pillow, truth)
    assert np.array_equal(by_torch, truth)
    assert absent is not None  # Aperio stores white tiles too


def test_exporting_tiles_of_another_codec_is_refused(places):
    with pytest.raises(ValueError, match="zstd"):
        places.encoded_tiles(0, [(0, 0)])


def test_a_manifest_opens_its_store(tmp_path):
    np.save(tmp_path / "a.npy", grid(100, 100))
    manifest = convert(tmp_path / "a.npy", tmp_path / "a.zarr", slide_id="a", config=Convert(store="zip"), mpp=0.5)
    manifest.write(tmp_path / "a.json")
    with open_slide(tmp_path / "a.json") as reader:
        assert (reader.slide_id, reader.width, reader.mpp) == ("a", 100, 0.5)


def test_a_quarantined_slide_does_not_open(tmp_path):
    error = SlideError(Reason.NO_MPP, slide_id="a", path="a.svs", detail="no usable mpp", remedy="Give one")
    Quarantined.of(error, "convert").write(tmp_path / "a.json")
    with pytest.raises(SlideError, match="no usable mpp") as caught:
        open_slide(tmp_path / "a.json")
    assert caught.value.reason is Reason.NO_MPP
