"""nvJPEG decodes tiles to the same colours as the CPU, including RGB-coded tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from histomake.config import Convert
from histomake.slide.convert import convert
from histomake.slide.gpu import decode_tiles
from histomake.slide.reader import SlideReader

from tests.bench.slides import big_slide

TILES = [(row, column) for row in range(3, 6) for column in range(3, 6)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("colour", ["RGB", "YCBCR"])
def test_nvjpeg_shows_the_colours_the_cpu_shows(colour, tmp_path):
    convert(big_slide(tmp_path, 2404, colour=colour), tmp_path / "a.zarr", slide_id="a", config=Convert())
    with SlideReader(tmp_path / "a.zarr") as reader:
        by_gpu = decode_tiles(reader, 0, TILES, "cuda").cpu().numpy().astype(int)
        by_cpu = decode_tiles(reader, 0, TILES, "cpu").numpy()
    # A second colour conversion would differ by about 50 grey levels, chroma interpolation by about one.
    assert np.abs(by_gpu - by_cpu).mean() < 2
