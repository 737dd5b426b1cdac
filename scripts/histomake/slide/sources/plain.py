"""Plain images as slides: NPY arrays, PNG and JPEG files, with one level and no resolution metadata."""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from histomake.base.npy import map_npy
from histomake.slide.jpeg import EOI, application_segments, read_frame
from histomake.slide.sources.base import (
    PARSE_ERRORS,
    ImplausibleSlideError,
    Source,
    SourceInfo,
    SourceLevel,
    TruncatedSlideError,
    UnsupportedSlideError,
    check_size,
    to_rgb,
)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_MAGIC = PNG_SIGNATURE[:4]
EXIF_MARKER = 0xE1
UPRIGHT = 1
IHDR_AT = 16
TRAILER_BYTES = 1 << 16

MAX_PICTURE_BYTES = 1 << 30
"""Most memory for a PNG or JPEG, which are decoded as a whole. The job has 1.5 GB."""

RGB_BYTES, RGBA_BYTES = 3, 7
"""Bytes per pixel that are in memory at once: RGB, or RGBA and the RGB that it becomes."""

PROGRESSIVE_BYTES = 9
"""Bytes per pixel of a progressive JPEG: its coefficients of 2 bytes are collected before they become RGB."""

EXIF_PNG, EXIF_JPEG = b"eXIf", b"Exif\0\0"
ORIENTATION = 274

BLOCK_PX = 2048


class NpySource(Source):
    """A NumPy array file, (y, x), (y, x, 1), RGB or RGBA, uint8 or bool, read through a memory map."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._array = map_npy(path)
        except ValueError as error:
            if "mmap length is greater than file size" in str(error):
                raise TruncatedSlideError("the array is longer than the file") from error
            if "Python objects" in str(error):
                raise UnsupportedSlideError("the array holds Python objects, which can run code") from error
            raise
        if self._array.ndim not in (2, 3):
            raise UnsupportedSlideError(f"an array of shape {self._array.shape} is not an image")
        height, width = self._array.shape[:2]
        check_size(width, height)
        to_rgb(self._array[:1, :1])
        level = SourceLevel(width, height, min(BLOCK_PX, width), min(BLOCK_PX, height))
        self.info = SourceInfo("plain", "npy", (level,))

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read pixels as uint8 (height, width, 3)."""
        return to_rgb(np.array(self._array[y : y + height, x : x + width]))

    def close(self) -> None:
        """Do nothing: the memory map is released with the array."""


class PictureSource(Source):
    """A PNG or JPEG file, decoded once as a whole."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        data = path.read_bytes()
        vendor = "png" if data.startswith(PNG_MAGIC) else "jpeg"
        width, height, per_pixel = _png_size(data) if vendor == "png" else _jpeg_size(data)
        check_size(width, height)
        if width * height * per_pixel > MAX_PICTURE_BYTES:
            raise ImplausibleSlideError(f"a {vendor} of {width} x {height} px is too large to be decoded as a whole")
        try:
            pixels = imagecodecs.png_decode(data) if vendor == "png" else imagecodecs.jpeg8_decode(data)
        except PARSE_ERRORS as error:
            raise TruncatedSlideError(f"the image cannot be decoded completely: {error}") from error
        self._pixels = to_rgb(pixels)
        level = SourceLevel(width, height, min(BLOCK_PX, width), min(BLOCK_PX, height))
        exif = _png_exif(data) if vendor == "png" else _jpeg_exif(data)
        self.info = SourceInfo("plain", vendor, (level,), orientation=_orientation(exif))

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read pixels as uint8 (height, width, 3)."""
        return self._pixels[y : y + height, x : x + width]

    def close(self) -> None:
        """Do nothing: the pixels are released with the object."""


def _png_size(data: bytes) -> tuple[int, int, int]:
    """Return width, height and bytes of memory per pixel."""
    width, height, _, colour = struct.unpack_from(">IIBB", data, IHDR_AT)
    alpha = colour & 4 or b"tRNS" in data[:TRAILER_BYTES]
    return width, height, RGBA_BYTES if alpha else RGB_BYTES


def _jpeg_size(data: bytes) -> tuple[int, int, int]:
    """Return width, height and bytes of memory per pixel."""
    frame = read_frame(data)
    if frame.components not in (1, 3) or frame.precision != 8:
        raise UnsupportedSlideError(f"JPEG with {frame.components} components of {frame.precision} bits each")
    if EOI not in data[-TRAILER_BYTES:]:
        raise TruncatedSlideError("the JPEG has no end marker")  # decoders would fill the rest with grey
    return frame.width, frame.height, RGB_BYTES if frame.sequential else PROGRESSIVE_BYTES


def _png_exif(data: bytes) -> bytes:
    """Return the content of the eXIf chunk, which may lie before or after the pixels."""
    position = len(PNG_SIGNATURE)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == EXIF_PNG:
            return data[position + 8 : position + 8 + length]
        position += 12 + length
    return b""


def _jpeg_exif(data: bytes) -> bytes:
    """Return the TIFF structure of the first EXIF segment."""
    for payload in application_segments(data, EXIF_MARKER):
        if payload.startswith(EXIF_JPEG):
            return payload[len(EXIF_JPEG) :]
    return b""


def _orientation(exif: bytes) -> int:
    """Return the orientation tag of EXIF data, 1 without one."""
    found = Image.Exif()
    if exif:
        found.load(EXIF_JPEG + exif)
    return int(found.get(ORIENTATION, UPRIGHT))
