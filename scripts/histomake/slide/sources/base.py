"""Owns the interface between slide files and the converter: levels, encoded tiles, decoded regions."""

from __future__ import annotations

import os
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError

import numpy as np
from pydicom.errors import InvalidDicomError

from histomake.slide.codec import TileCoding

# What parsers raise on malformed input. Disk-full and friends come from writing and are never caught with these.
PARSE_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    EOFError,
    OSError,
    RuntimeError,
    AssertionError,
    MemoryError,
    SyntaxError,  # of XML
    struct.error,
    TokenError,  # of NumPy headers
    zlib.error,
    InvalidDicomError,
)

MAX_SIDE_PX = 2_000_000
"""Longest believable side of a level: 0.1 µm per pixel over a 200 mm slide."""

WHITE = 255


class UnsupportedSlideError(Exception):
    """The file is whole, but of a kind that is not handled; the message says which."""


class TruncatedSlideError(Exception):
    """The file ends before the data its header promises."""


class ImplausibleSlideError(Exception):
    """The header claims a size no slide has."""


class DamagedTilesError(Exception):
    """Some tiles cannot be what their header says."""


@dataclass(frozen=True)
class TileBytes:
    """Where the encoded tiles of a level lie: byte ranges of one file, as (rows, columns) arrays; 0 bytes: absent."""

    path: Path
    offsets: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class SourceLevel:
    """One resolution of a slide. ``coding`` is None when the tiles have to be decoded and encoded again."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    coding: TileCoding | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.height // self.tile_height), -(-self.width // self.tile_width)


@dataclass(frozen=True)
class SourceInfo:
    """What a slide file says about itself."""

    family: str
    vendor: str
    levels: tuple[SourceLevel, ...]
    vendor_mpp: tuple[float, float] | None = None
    tag_mpp: tuple[float, float] | None = None
    bounds: tuple[int, int, int, int] | None = None
    properties: dict[str, str] = field(default_factory=dict)


class Source(ABC):
    """An open slide file. Every method may be called from several threads at once."""

    info: SourceInfo

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def files(self) -> list[Path]:
        """Every file that holds a part of the slide, sorted."""
        return [self.path]

    def tile_bytes(self, level: int) -> TileBytes:
        """Byte ranges of the encoded tiles of a level that has a ``coding``; ValueError for any other level."""
        raise ValueError(f"{self.info.family} has no encoded tiles on level {level}")

    @abstractmethod
    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of ``level``, which must lie inside it: uint8 (height, width, 3). DamagedTilesError on bad data."""

    def associated(self) -> dict[str, Callable[[], np.ndarray]]:
        """Readers of the label, macro and thumbnail images: name → function returning uint8 (h, w, 3)."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_size(width: int, height: int) -> None:
    """ImplausibleSlideError unless a level of this size can exist."""
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
        raise ImplausibleSlideError(f"the header claims {width} x {height} px")


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGB (h, w, 3) from grey (h, w) or (h, w, 1), grey and alpha, RGB or RGBA; transparency becomes white."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype != np.uint8:
        raise UnsupportedSlideError(f"pixels are {pixels.dtype}, only 8-bit images are supported")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4:
        raise UnsupportedSlideError(f"array of shape {pixels.shape} is neither grey nor RGB, with or without alpha")
    if pixels.shape[2] < 3:
        grey = np.repeat(pixels[:, :, :1], 3, axis=2)
        pixels = grey if pixels.shape[2] == 1 else np.concatenate([grey, pixels[:, :, 1:]], axis=2)
    if pixels.shape[2] == 4:
        return over_white(pixels)
    return pixels


def over_white(rgba: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
    """Lay RGBA pixels (h, w, 4) over white."""
    alpha = rgba[:, :, 3:4]
    if int(alpha.min(initial=WHITE)) == WHITE:
        return np.ascontiguousarray(rgba[:, :, :3])
    colour = rgba[:, :, :3].astype(np.uint16)
    if not premultiplied:
        colour = (colour * alpha + 127) // 255
    return (colour + (WHITE - alpha.astype(np.uint16))).clip(0, WHITE).astype(np.uint8)


def touching(x: int, y: int, width: int, height: int, tile_width: int, tile_height: int) -> Iterator[tuple[int, int]]:
    """(row, column) of every tile that a box of level pixels touches."""
    for row in range(y // tile_height, (y + height - 1) // tile_height + 1):
        for column in range(x // tile_width, (x + width - 1) // tile_width + 1):
            yield row, column


def paste(out: np.ndarray, tile: np.ndarray, left: int, top: int) -> None:
    """Copy the part of ``tile`` that falls into ``out`` when its corner is put at (left, top), which may be outside."""
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + tile.shape[1], out.shape[1]), min(top + tile.shape[0], out.shape[0])
    if x1 > x0 and y1 > y0:
        out[y0:y1, x0:x1] = tile[y0 - top : y1 - top, x0 - left : x1 - left]


class FileBytes:
    """A file opened once and read at any position by any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes from ``offset``, or TruncatedSlideError."""
        self._check(offset, count)
        data = bytearray(count)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill ``out`` with the bytes from ``offset``, or TruncatedSlideError."""
        self._check(offset, len(out))
        while out:
            count = os.preadv(self._descriptor, [out], offset)
            if not count:
                raise TruncatedSlideError(f"{self.path.name} became shorter while it was read")
            offset, out = offset + count, out[count:]

    def fetch(self, offset: int, count: int) -> None:
        """Ask the system to read bytes that are soon wanted into its cache."""
        os.posix_fadvise(self._descriptor, offset, count, os.POSIX_FADV_WILLNEED)

    def _check(self, offset: int, count: int) -> None:
        if offset + count > self.size:
            raise TruncatedSlideError(f"{self.path.name} has {self.size} bytes, byte {offset + count} is needed")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> FileBytes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
