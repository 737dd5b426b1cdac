"""Tests of parsing JPEG and JPEG 2000 headers without decoding."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from histomake.slide import jpeg, jpeg2000
from histomake.slide.jpeg import (
    ADOBE_RGB,
    JpegStreamError,
    complete,
    first_rows,
    frame_size,
    read_frame,
    stated_colour,
    stream_head,
)
from histomake.slide.jpeg2000 import Jpeg2000StreamError, read_codestream
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench.slides import abbreviate

TEXTURE = np.random.default_rng(0).integers(0, 256, (16, 12, 3), dtype=np.uint8).repeat(12, 0).repeat(16, 1)
SAMPLINGS = ("444", "422", "420", "411", "440")


def encoded(sampling: str = "420", colour: str = "YCBCR", **options: object) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(
            TEXTURE, level=85, colorspace="RGB", outcolorspace=colour, subsampling=sampling, **options
        )
    )


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_frame_header_gives_size_components_and_subsampling(sampling):
    frame = read_frame(encoded(sampling))
    assert (frame.width, frame.height, frame.components, frame.precision) == (192, 192, 3, 8)
    assert frame_size(encoded(sampling)) == (192, 192)
    assert frame.sequential
    assert frame.subsampled is (sampling != "444")


@settings(deadline=None)
@given(st.integers(1, 192), st.sampled_from(SAMPLINGS), st.booleans())
def test_the_first_rows_of_a_shortened_stream_are_unchanged(rows, sampling, optimize):
    stream = encoded(sampling, optimize=optimize)
    whole, part = imagecodecs.jpeg8_decode(stream), imagecodecs.jpeg8_decode(first_rows(stream, rows, 192)[0])
    assert rows <= part.shape[0] == first_rows(stream, rows, 192)[1] <= 192
    assert np.array_equal(part[:rows], whole[:rows])


def test_a_stream_is_shortened_to_whole_mcu_rows():
    assert read_frame(first_rows(encoded("444"), 3, 192)[0]).height == 8
    assert read_frame(first_rows(encoded("420"), 3, 192)[0]).height == 16


@pytest.mark.parametrize(("colour", "stated"), [("RGB", "RGB"), ("YCBCR", "YCBCR")])
def test_a_marker_states_the_colour_space(colour, stated):
    assert stated_colour(encoded("444", colour)) == stated


def test_an_abbreviated_stream_states_no_colour_space():
    assert stated_colour(abbreviate(encoded("444", "RGB"))[1]) is None


@pytest.mark.parametrize("colour", ["RGB", "YCBCR"])
def test_a_completed_tile_decodes_without_further_information(colour):
    whole = encoded("444", colour)
    tables, tile = abbreviate(whole)
    file = complete(tile, stream_head(tables, rgb=colour == "RGB"))
    assert (ADOBE_RGB in file) is (colour == "RGB")
    assert np.array_equal(imagecodecs.jpeg8_decode(file), imagecodecs.jpeg8_decode(whole))


@given(st.binary(max_size=200))
def test_bytes_that_are_not_jpeg_are_refused(junk):
    for read in (read_frame, frame_size):
        with pytest.raises(JpegStreamError):
            read(junk)


@given(st.integers(0, encoded().index(b"\xff\xc0") + 9))
def test_a_truncated_header_is_refused(length):
    with pytest.raises(JpegStreamError):
        read_frame(encoded()[:length])
    if length < encoded().index(b"\xff\xc0") + 9:
        with pytest.raises(JpegStreamError):
            frame_size(encoded()[:length])


@pytest.mark.parametrize("mct", [False, True])
@pytest.mark.parametrize("codecformat", ["J2K", "JP2"])
def test_the_codestream_header_gives_size_and_colour_transform(mct, codecformat):
    stream = bytes(imagecodecs.jpeg2k_encode(TEXTURE, codecformat=codecformat, mct=mct))
    header = read_codestream(stream)
    assert (header.width, header.height, header.components, header.precision) == (192, 192, 3, 8)
    assert header.colour_transform is mct
    assert not header.subsampled


@given(st.binary(max_size=100))
def test_bytes_that_are_not_a_codestream_are_refused(junk):
    with pytest.raises(Jpeg2000StreamError):
        read_codestream(junk)
    with pytest.raises(Jpeg2000StreamError):
        read_codestream(b"\xff\x4f\xff\x51" + junk[:30])


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(SAMPLINGS))
@settings(max_examples=20, deadline=None)
def test_streams_that_begin_alike_have_the_same_size(width, height, sampling):
    image = np.zeros((height, width, 3), np.uint8)
    stream = bytes(imagecodecs.jpeg8_encode(image, subsampling=sampling))
    head, size = jpeg.sized_head(stream)
    assert stream.startswith(head)
    assert size == (width, height) == frame_size(stream)
    assert jpeg.sized_head(head + b"\xff")[1] == size
    code = bytes(imagecodecs.jpeg2k_encode(image, level=0, codecformat="j2k"))
    head, size = jpeg2000.sized_head(code)
    assert code.startswith(head)
    assert size == (width, height)
    assert head[-16:] == width.to_bytes(4) + height.to_bytes(4) + bytes(8)
