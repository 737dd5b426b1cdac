"""Decoding of single tiles, strips and frames of slide files, after a look at the header of the stream.

The header of a stream can state any size; decoders allocate it at once. So it is compared with the size of the tile
before anything is decoded.
"""

from __future__ import annotations

from collections.abc import Callable

import imagecodecs
import numpy as np

from histomake.slide.colour import Coder, Photometric, Samples, Stated
from histomake.slide.jpeg import Colour, Frame, read_frame, stated_colour
from histomake.slide.jpeg2000 import SRGB, SYCC, Codestream, read_codestream
from histomake.slide.sources.base import DamagedTilesError, UnsupportedSlideError

Size = tuple[int, int]
"""Height and width in pixels."""

PICTURES: dict[int, Callable[..., np.ndarray]] = {
    22610: imagecodecs.jpegxr_decode,
    34933: imagecodecs.png_decode,
    34934: imagecodecs.jpegxr_decode,
    50001: imagecodecs.webp_decode,
    50002: imagecodecs.jpegxl_decode,
    52546: imagecodecs.jpegxl_decode,
}
"""Decoders of picture formats in a TIFF, by its compression."""

_STATED = {None: Stated.NOTHING, "RGB": Stated.RGB, "YCBCR": Stated.YCBCR}


def jpeg_samples(stream: bytes, photometric: Photometric, tables: bytes | None = None) -> Samples:
    """Return what a JPEG stream, with the tables that it shares, states about its samples."""
    frame = read_frame(stream)
    # A decoder reads the tables first, but the colour of the tiles is what they state themselves.
    stated = _STATED[stated_colour(stream)] if frame.components == 3 else Stated.NOTHING
    return Samples(photometric, Coder.JPEG, stated, count=frame.components, bits=frame.precision)


def jpeg2000_samples(stream: bytes, photometric: Photometric) -> Samples:
    """Return what a JPEG 2000 stream states about its samples."""
    header = read_codestream(stream)
    if header.palette:
        raise UnsupportedSlideError("the JPEG 2000 stream has a palette")
    return Samples(
        photometric,
        Coder.JPEG2000,
        _stated_by(header),
        count=header.components,
        bits=header.precision,
        integer=not header.signed,
    )


def _stated_by(header: Codestream) -> Stated:
    """Return what the decoder (OpenJPEG through imagecodecs) does about colour, and what the JP2 boxes state."""
    if header.subsampled and header.components == 3:
        if header.sampling[0] != (1, 1) or header.sampling[1][0] == 1:
            raise UnsupportedSlideError(f"JPEG 2000 components lie {header.sampling} pixels apart, which is not read")
        return Stated.CONVERTED
    if header.subsampled:
        raise UnsupportedSlideError("JPEG 2000 components other than chroma have fewer samples than pixels")
    if header.colour_transform:
        return Stated.TRANSFORMED
    if header.components < 3:
        return Stated.NOTHING
    return {SYCC: Stated.CONVERTED, SRGB: Stated.RGB}.get(header.colour_space or 0, Stated.NOTHING)


def decode_jpeg(stream: bytes, most: Size, colour: Colour | None, tables: bytes | None = None) -> np.ndarray:
    """Decode a JPEG of at most ``most`` pixels to uint8 (h, w, c). ``colour``: that of three components, else None."""
    frame: Frame = read_frame(stream)
    _check_size((frame.height, frame.width), most)
    if frame.components != (3 if colour else 1):
        raise DamagedTilesError(f"the JPEG stream has {frame.components} components")
    outcome = "RGB" if colour else None
    pixels = imagecodecs.jpeg8_decode(stream, tables=tables, colorspace=colour, outcolorspace=outcome)
    return pixels.reshape(*pixels.shape[:2], -1)


def decode_jpeg2000(stream: bytes, most: Size) -> np.ndarray:
    """Decode a JPEG 2000 of at most ``most`` pixels to uint8 (h, w, c)."""
    header = read_codestream(stream)
    _check_size((header.height, header.width), most)
    pixels = imagecodecs.jpeg2k_decode(stream)
    return pixels.reshape(*pixels.shape[:2], -1)


def decode_picture(stream: bytes, size: Size, samples: int, compression: int) -> np.ndarray:
    """Decode a picture of exactly ``size`` pixels, to which the decoder is held by its output, to uint8 (h, w, c)."""
    out = np.empty((*size, samples) if samples > 1 else size, np.uint8)
    return PICTURES[compression](stream, out=out).reshape(*size, samples)


def _check_size(stated: Size, most: Size) -> None:
    if not (0 < stated[0] <= most[0] and 0 < stated[1] <= most[1]):
        raise DamagedTilesError(
            f"the stream states {stated[1]} x {stated[0]} px, but its place in the slide has {most[1]} x {most[0]}"
        )
