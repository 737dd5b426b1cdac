"""Tests of decoding single tiles: wrong sizes in headers and all kinds of chroma subsampling."""

from __future__ import annotations

import cv2
import imagecodecs
import numpy as np
import pytest
from histomake.slide.codec import TileCoding, TileDecodeError
from slide_files import grid

TILE = (256, 256, 3)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("edge", [128, 255, 512, 1024])
def test_a_stream_of_another_size_is_refused(edge, factor):
    coding = TileCoding("jpeg")
    data = bytes(imagecodecs.jpeg8_encode(np.zeros((edge, edge, 3), np.uint8)))
    with pytest.raises(TileDecodeError):
        coding.decode(data, TILE) if factor == 1 else coding.decode_reduced(data, TILE, factor)


@pytest.mark.parametrize("rows", [256, 90])
@pytest.mark.parametrize("colour", ["YCBCR", "RGB"])
@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411", "2x2,2x1,2x1", "1x1,1x2,2x1"])
def test_tiles_of_any_subsampling_decode_as_in_libjpeg(sampling, colour, rows):
    data = _encoded(sampling, colour)
    truth = imagecodecs.jpeg8_decode(data, colorspace=colour, outcolorspace="RGB")
    coding = TileCoding("jpeg", colour)
    assert np.array_equal(coding.decode(data, TILE, rows=rows)[:rows], truth[:rows])
    half = coding.decode_reduced(data, TILE, 2, rows=rows // 2)[: rows // 2]
    means = cv2.resize(truth, (128, 128), interpolation=cv2.INTER_AREA)[: rows // 2]
    assert "x" in sampling or np.abs(half.astype(int) - means).mean() < 2


def _encoded(sampling: str, colour: str) -> bytes:
    """Encode a tile. Unusual factors are written into the frame of a 4:4:4 stream, whose content then changes."""
    odd = "x" in sampling
    pixels = cv2.resize(grid(16, 16), TILE[:2], interpolation=cv2.INTER_CUBIC)
    pixels[40:200, 60:160] = (180, 60, 90)
    data = bytearray(
        imagecodecs.jpeg8_encode(
            pixels, level=90, colorspace="RGB", outcolorspace=colour, subsampling="444" if odd else sampling
        )
    )
    frame = data.index(b"\xff\xc0")
    for component, factors in enumerate(sampling.split(",") if odd else ()):
        data[frame + 11 + 3 * component] = int(factors[0]) << 4 | int(factors[2])
    return bytes(data)
