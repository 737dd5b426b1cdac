"""Decoding of JPEG tiles on a device: chroma is interpolated as on the CPU, and damage is told by its own error.

A GPU repeats the samples of subsampled chroma. Here libjpeg-turbo does the same, with its option for speed.
"""

from __future__ import annotations

import cv2
import imagecodecs
import pytest
import simplejpeg
import tifffile
import torch
from histomake.learn.data.device_jpeg import (
    MOST_BEYOND,
    DeviceDecodeError,
    compare,
    decode_tiles,
    interpolate_chroma,
    interpolates,
    reduce_tiles,
    subsampling,
)
from histomake.slide.codec import TileCoding
from histomake.slide.jpeg import read_frame

from tests.bench.slides import REGION

CPU = torch.device("cpu")


def tile(subsampling: str, *, quality: int = 80, saturated: bool = False, pale: bool = False) -> bytes:
    """A JPEG of 256 x 256 px of real tissue, with more saturated pixels than it has, or without any."""
    pixels = tifffile.imread(REGION)[1000:1256, 900:1156]
    if saturated:
        pixels = cv2.convertScaleAbs(pixels, alpha=1.3, beta=-20)
    if pale:
        pixels = cv2.convertScaleAbs(pixels, alpha=0.7, beta=40)
    stream = imagecodecs.jpeg8_encode(
        pixels, level=quality, colorspace="RGB", outcolorspace="YCBCR", subsampling=subsampling
    )
    return bytes(stream)


def by_cpu(file: bytes) -> torch.Tensor:
    """The tile as the CPU decodes it, (1, 3, h, w)."""
    return torch.from_numpy(simplejpeg.decode_jpeg(file)).permute(2, 0, 1)[None]


def repeated(file: bytes) -> torch.Tensor:
    """The tile with repeated chroma samples, (1, 3, h, w)."""
    pixels = simplejpeg.decode_jpeg(file, fastupsample=True)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


@pytest.mark.parametrize("quality", [30, 80, 95])
@pytest.mark.parametrize("sampling", ["422", "420", "440"])
def test_repeated_chroma_becomes_what_the_cpu_interpolates(sampling, quality):
    file = tile(sampling, quality=quality)
    frame, expected = read_frame(file), by_cpu(file)
    assert interpolates(frame)
    assert compare(repeated(file), expected).beyond > 0.05
    assert compare(interpolate_chroma(repeated(file), subsampling(frame)), expected).good


def test_overexposed_tissue_is_not_alike_but_saturated_values_stay():
    """Where a value was cut off, the chroma of its pixel is not known."""
    file = tile("420", saturated=True)
    found, expected = interpolate_chroma(repeated(file), (2, 2)), by_cpu(file)
    assert MOST_BEYOND < compare(found, expected).beyond < compare(repeated(file), expected).beyond / 10
    cut_off = (repeated(file) == 0) | (repeated(file) == 255)
    assert torch.equal(found[cut_off], repeated(file)[cut_off])


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("sampling", ["444", "422", "420", "440"])
def test_reduced_tiles_are_those_that_the_cpu_reduces(sampling, factor):
    file = tile(sampling, pale=True)
    expected = TileCoding("jpeg").decode_reduced(file, (256, 256, 3), factor)
    found = reduce_tiles(repeated(file), factor, subsampling(read_frame(file)))
    assert compare(found, torch.from_numpy(expected).permute(2, 0, 1)[None]).good


@pytest.mark.parametrize("sampling", ["444", "411"])
def test_chroma_that_the_cpu_does_not_interpolate_stays(sampling):
    assert not interpolates(read_frame(tile(sampling)))
    assert compare(repeated(tile(sampling)), by_cpu(tile(sampling))).good


def test_a_list_of_files_becomes_one_tensor_of_tiles():
    files = [torch.frombuffer(bytearray(tile(sampling)), dtype=torch.uint8) for sampling in ("444", "420")]
    found = decode_tiles(files, (256, 256), CPU)
    assert (found.shape, found.dtype) == ((2, 3, 256, 256), torch.uint8)
    assert compare(found[:1], by_cpu(tile("444"))).good


@pytest.mark.parametrize("content", [b"", b"no JPEG", tile("420")[:300]])
def test_a_file_that_cannot_be_decoded_is_told(content):
    with pytest.raises(DeviceDecodeError):
        decode_tiles([torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)], (256, 256), CPU)


def test_a_tile_of_another_size_is_told():
    with pytest.raises(DeviceDecodeError, match="512 x 512"):
        decode_tiles([torch.frombuffer(bytearray(tile("420")), dtype=torch.uint8)], (512, 512), CPU)


def test_a_second_conversion_of_colours_does_not_agree():
    expected = by_cpu(tile("444"))
    twice = cv2.cvtColor(expected[0].permute(1, 2, 0).numpy(), cv2.COLOR_YCrCb2RGB)
    assert compare(torch.from_numpy(twice).permute(2, 0, 1)[None], expected).beyond > 0.5


def test_one_wrong_tile_among_a_batch_does_not_agree():
    expected = by_cpu(tile("444")).repeat(64, 1, 1, 1)
    found = expected.clone()
    found[3] = 255
    assert not compare(found, expected).good
