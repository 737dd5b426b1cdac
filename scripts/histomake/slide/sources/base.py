"""Interface between slide files and the converter: levels, encoded tiles and decoded regions."""

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

# Exceptions of parsers for malformed input. Errors of writing, such as a full disk, are never caught with these.
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
"""Longest plausible side of a level in pixels: 200 mm at 0.1 µm per pixel."""

MAX_AREA_PX = 1 << 38
"""Largest plausible area of a level in pixels: 52 mm square at 0.1 µm per pixel. A header of a few bytes can state
more, with tiles that are all absent."""

MAX_ASSOCIATED_PX = 1 << 25
"""Largest associated image in pixels: thumbnails have about 1 M. A larger one is left out."""

UNKNOWN = "left out: nothing says that it shows the slide"
"""Status of an image that may show anything."""

WHITE = 255


class UnsupportedSlideError(Exception):
    """The file is complete, but its format is not supported; the message names the feature."""


class MissingFilesError(Exception):
    """The path is one part of a slide, and the others are not there; the message names them."""


class DamagedSlideError(Exception):
    """The header contradicts itself or cannot be parsed."""


class TruncatedSlideError(Exception):
    """The file ends before the data that its header describes."""


class ImplausibleSlideError(Exception):
    """The header states an implausible size."""


class DamagedTilesError(Exception):
    """Some tiles do not match their header."""


SOURCE_ERRORS = (
    UnsupportedSlideError,
    MissingFilesError,
    DamagedSlideError,
    TruncatedSlideError,
    ImplausibleSlideError,
    DamagedTilesError,
)
"""What a source raises about its own file."""


@dataclass(frozen=True)
class TileBytes:
    """Byte ranges of the encoded tiles of a level in one file, as (rows, columns) arrays. 0 bytes: empty tile."""

    path: Path
    offsets: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class SourceLevel:
    """One resolution of a slide. ``coding`` is None if the tiles have to be decoded and encoded again."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    coding: TileCoding | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """Number of rows and columns of tiles."""
        return -(-self.height // self.tile_height), -(-self.width // self.tile_width)


@dataclass(frozen=True)
class SourceInfo:
    """Metadata of a slide file."""

    family: str
    vendor: str
    levels: tuple[SourceLevel, ...]
    vendor_mpp: tuple[float, float] | None = None
    tag_mpp: tuple[float, float] | None = None
    bounds: tuple[int, int, int, int] | None = None
    properties: dict[str, str] = field(default_factory=dict)
    orientation: int = 1
    """Orientation tag of TIFF and EXIF: 1 is upright."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Images and objects of the file that are not the slide: a name that identifies nobody → why it is left out."""


class Source(ABC):
    """An open slide file. All methods are thread-safe."""

    info: SourceInfo

    def __init__(self, path: Path) -> None:
        self.path = path

    def tile_bytes(self, level: int) -> TileBytes:
        """Return the byte ranges of the encoded tiles of a level that has a ``coding``; else raise ValueError."""
        raise ValueError(f"{self.info.family} has no encoded tiles on level {level}")

    @abstractmethod
    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read a region inside ``level`` as uint8 (height, width, 3). Raises DamagedTilesError for damaged data."""

    def missing(self, level: int) -> np.ndarray | None:
        """Return which tiles of ``level`` the file does not hold, bool (rows, columns); None if it holds all."""
        return None

    def to_fill(self, level: int) -> np.ndarray | None:
        """Return which missing tiles of ``level`` `read` makes from the finer level, bool (rows, columns), or None."""
        return None

    def associated(self) -> dict[str, Callable[[], np.ndarray]]:
        """Return readers of the label, macro and thumbnail images: name → function returning uint8 (h, w, 3).

        A thumbnail is one by name only: `same_content.is_thumbnail` checks whether it shows the slide.
        """
        return {}

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_size(width: int, height: int) -> None:
    """Raise ImplausibleSlideError if a level cannot have this size."""
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX and width * height <= MAX_AREA_PX):
        raise ImplausibleSlideError(f"the header states {width} x {height} px, which is not a plausible size")


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Convert grey (h, w) or (h, w, 1), grey with alpha, RGB or RGBA to uint8 RGB (h, w, 3) over white."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype != np.uint8:
        raise UnsupportedSlideError(f"pixels are {pixels.dtype}; only 8-bit images are supported")
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
    """Blend RGBA pixels (h, w, 4) over white."""
    alpha = rgba[:, :, 3:4]
    if int(alpha.min(initial=WHITE)) == WHITE:
        return np.ascontiguousarray(rgba[:, :, :3])
    colour = rgba[:, :, :3].astype(np.uint16)
    if not premultiplied:
        colour = (colour * alpha + 127) // 255
    return (colour + (WHITE - alpha.astype(np.uint16))).clip(0, WHITE).astype(np.uint8)


def touching(x: int, y: int, width: int, height: int, tile_width: int, tile_height: int) -> Iterator[tuple[int, int]]:
    """Yield (row, column) of every tile that overlaps a box in level pixels."""
    for row in range(y // tile_height, (y + height - 1) // tile_height + 1):
        for column in range(x // tile_width, (x + width - 1) // tile_width + 1):
            yield row, column


def paste(out: np.ndarray, tile: np.ndarray, left: int, top: int) -> None:
    """Copy ``tile`` into ``out`` with its corner at (left, top), which may be outside; the overlap is copied."""
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + tile.shape[1], out.shape[1]), min(top + tile.shape[0], out.shape[0])
    if x1 > x0 and y1 > y0:
        out[y0:y1, x0:x1] = tile[y0 - top : y1 - top, x0 - left : x1 - left]


class FileBytes:
    """A file that is opened once and read at any position by any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, count: int) -> bytes:
        """Read exactly ``count`` bytes from ``offset``. Raises TruncatedSlideError if the file is too short."""
        self._check(offset, count)
        data = bytearray(count)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill ``out`` with the bytes from ``offset``. Raises TruncatedSlideError if the file is too short."""
        self._check(offset, len(out))
        while out:
            count = os.preadv(self._descriptor, [out], offset)
            if not count:
                raise TruncatedSlideError(f"{self.path.name} became shorter while it was read")
            offset, out = offset + count, out[count:]

    def fetch(self, offset: int, count: int) -> None:
        """Advise the operating system to read these bytes into its cache."""
        os.posix_fadvise(self._descriptor, offset, count, os.POSIX_FADV_WILLNEED)

    def _check(self, offset: int, count: int) -> None:
        if offset + count > self.size:
            raise TruncatedSlideError(f"{self.path.name} has {self.size} bytes, but byte {offset + count} is needed")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> FileBytes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
