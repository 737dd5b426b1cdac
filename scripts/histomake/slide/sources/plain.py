"""Plain images as slides: NPY arrays, PNG and JPEG files, with one level and no resolution metadata."""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np

from histomake.slide.jpeg import EOI, read_frame
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

PNG_MAGIC = b"\x89PNG"
IHDR_AT = 16
TRAILER_BYTES = 1 << 16

MAX_PICTURE_PX = 1 << 29
"""Largest number of pixels of a PNG or JPEG. These formats are decoded as a whole: 1.6 GB of RGB at this size."""

BLOCK_PX = 2048


class NpySource(Source):
    """A NumPy array file, (y, x), (y, x, 1), RGB or RGBA, uint8 or bool, read through a memory map."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            if "mmap length is greater than file size" in str(error):
                raise TruncatedSlideError("the array is longer than the file") from error
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
        width, height = _png_size(data) if vendor == "png" else _jpeg_size(data)
        check_size(width, height)
        if width * height > MAX_PICTURE_PX:
            raise ImplausibleSlideError(f"a {vendor} of {width} x {height} px is too large to be decoded as a whole")
        try:
            pixels = imagecodecs.png_decode(data) if vendor == "png" else imagecodecs.jpeg8_decode(data)
        except PARSE_ERRORS as error:
            raise TruncatedSlideError(f"the image cannot be decoded completely: {error}") from error
        self._pixels = to_rgb(pixels)
        level = SourceLevel(width, height, min(BLOCK_PX, width), min(BLOCK_PX, height))
        self.info = SourceInfo("plain", vendor, (level,))

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read pixels as uint8 (height, width, 3)."""
        return self._pixels[y : y + height, x : x + width]

    def close(self) -> None:
        """Do nothing: the pixels are released with the object."""


def _png_size(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, IHDR_AT)
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    frame = read_frame(data)
    if frame.components not in (1, 3) or frame.precision != 8:
        raise UnsupportedSlideError(f"JPEG with {frame.components} components of {frame.precision} bits each")
    if EOI not in data[-TRAILER_BYTES:]:
        raise TruncatedSlideError("the JPEG has no end marker")  # decoders would fill the rest with grey
    return frame.width, frame.height
