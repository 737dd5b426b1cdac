"""Tests of decoding tiles for a device, as far as possible without a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from histomake.config import Convert
from histomake.slide.convert import convert
from histomake.slide.gpu import decode_tiles
from histomake.slide.reader import SlideReader
from slide_files import grid

from tests.bench.slides import big_slide


@pytest.mark.parametrize("colour", ["RGB", "YCBCR"])
def test_without_a_gpu_tiles_are_decoded_on_the_cpu(colour, tmp_path):
    convert(big_slide(tmp_path, 1204, colour=colour), tmp_path / "a.zarr", slide_id="a", config=Convert())
    with SlideReader(tmp_path / "a.zarr") as reader:
        tiles = decode_tiles(reader, 0, [(2, 2), (1, 3)], "cpu")
        assert np.array_equal(tiles[1].permute(1, 2, 0), reader.read_level(0, 3 * 256, 256, 256, 256))
    assert tiles.shape == (2, 3, 256, 256)


def test_empty_tiles_are_white(tmp_path):
    image = grid(512, 256)
    image[:, :256] = 255
    np.save(tmp_path / "a.npy", image)
    convert(tmp_path / "a.npy", tmp_path / "a.zarr", slide_id="a", config=Convert(codec="zstd"), mpp=0.5)
    with SlideReader(tmp_path / "a.zarr") as reader:
        tiles = decode_tiles(reader, 0, [(0, 0), (0, 1)], "cpu").numpy()
    assert tiles[0].min() == 255
    assert np.array_equal(tiles[1].transpose(1, 2, 0), image[:, 256:])
