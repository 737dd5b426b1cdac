"""TIFF slides: Aperio SVS, OME-TIFF and generic TIFF, tiled or striped, parsed by tifffile."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from defusedxml import ElementTree

from histomake.slide.codec import TileCoding
from histomake.slide.jpeg import SOI, Colour, read_frame, stated_colour
from histomake.slide.jpeg2000 import CODESTREAM, read_codestream
from histomake.slide.sources.base import (
    PARSE_ERRORS,
    DamagedTilesError,
    FileBytes,
    ImplausibleSlideError,
    Source,
    SourceInfo,
    SourceLevel,
    TileBytes,
    TruncatedSlideError,
    UnsupportedSlideError,
    check_size,
    paste,
    to_rgb,
    touching,
)

JPEG = 7
APERIO_JP2_YCBCR = 33003
JPEG2000 = (33003, 33004, 33005, 34712)
PHOTOMETRIC_GREY, PHOTOMETRIC_RGB, PHOTOMETRIC_YCBCR = 1, 2, 6
BIG_TIFF = 43
MAX_DIRECTORIES = 10_000
MAX_EXPANSION, HEADER_BYTES = 2, 1 << 20
"""Largest plausible size of an encoded tile, relative to its pixels, plus a header. Larger byte counts are forged to
exhaust memory."""

MAX_SEGMENT_BYTES = 1 << 29
"""Largest strip or tile in bytes: it is decoded as a whole, and a larger one would not fit the memory of a job."""

MICRONS_PER_UNIT = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
# Other Aperio fields name the operator, the site, the barcode or the date, and may identify a patient.
APERIO_KEPT = ("AppMag", "MPP", "StripeWidth", "Parmset", "ICC Profile", "OriginalWidth", "OriginalHeight")


class TiffSource(Source):
    """A TIFF slide. Pixels are decoded by tifffile's segment decoders, from any number of threads."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = FileBytes(path)
        try:
            _check_directories(self._file)
            self._tiff = tifffile.TiffFile(path)
            self._levels = [_Segments(pages, self._file.size) for pages in _baseline_pages(self._tiff)]
            self.info = self._describe()
        except BaseException:
            self._file.close()
            raise

    def _describe(self) -> SourceInfo:
        first = self._tiff.pages.first
        levels = tuple(
            SourceLevel(s.width, s.height, s.tile_width, s.tile_height, self._coding(s)) for s in self._levels
        )
        vendor, mpp = "generic-tiff", None
        properties: dict[str, str] = {}
        if self._tiff.is_svs:
            vendor, (mpp, properties) = "aperio", _aperio(first.description)
        elif self._tiff.is_ome:
            vendor, mpp = "ome-tiff", _ome_mpp(self._tiff.ome_metadata or "")
        return SourceInfo(
            family="tiff",
            vendor=vendor,
            levels=levels,
            vendor_mpp=mpp,
            tag_mpp=_tag_mpp(first),
            properties=properties,
        )

    def _coding(self, segments: _Segments) -> TileCoding | None:
        return _copyable(segments, self._file, aperio=self._tiff.is_svs)

    def tile_bytes(self, level: int) -> TileBytes:
        """Return the byte ranges of the tiles from the TileOffsets and TileByteCounts tags."""
        segments = self._levels[level]
        page, _ = segments.planes[0]
        count = segments.grid[0] * segments.grid[1]
        offsets, counts = (np.asarray(tag[:count], np.uint64) for tag in (page.dataoffsets, page.databytecounts))
        return TileBytes(self.path, offsets.reshape(segments.grid), counts.reshape(segments.grid))

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read pixels of ``level`` as uint8 (height, width, 3)."""
        segments = self._levels[level]
        channels = [self._read_plane(segments, plane, x, y, width, height) for plane in range(len(segments.planes))]
        return to_rgb(channels[0] if len(channels) == 1 else np.concatenate(channels, axis=2))

    def _read_plane(self, segments: _Segments, plane: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        page, first = segments.planes[plane]
        samples = page.samplesperpixel if page.planarconfig == 1 else 1
        out = np.full((height, width, samples), 255, np.uint8)
        for row, column in touching(x, y, width, height, segments.tile_width, segments.tile_height):
            pixels = self._decode(page, first + row * segments.grid[1] + column, row, column)
            if pixels is not None:
                paste(out, pixels, column * segments.tile_width - x, row * segments.tile_height - y)
        return out

    def _decode(self, page: tifffile.TiffPage, index: int, row: int, column: int) -> np.ndarray | None:
        count = page.databytecounts[index]
        if not count:
            return None
        data = self._file.read(page.dataoffsets[index], count)
        try:
            pixels, *_ = page.decode(data, index, jpegtables=page.jpegtables)
        except PARSE_ERRORS as error:
            raise DamagedTilesError(f"tile (row {row}, column {column}) cannot be decoded: {error}") from error
        if pixels is None:
            return None
        if self._tiff.is_svs and page.compression == APERIO_JP2_YCBCR and _is_plain_ycbcr(data):
            return cv2.cvtColor(np.ascontiguousarray(pixels[0][:, :, [0, 2, 1]]), cv2.COLOR_YCrCb2RGB)
        return pixels[0]

    def associated(self) -> dict[str, Callable[[], np.ndarray]]:
        """Return readers of thumbnail, label and macro of an SVS, which are its striped pages."""
        if not self._tiff.is_svs:
            return {}
        return {
            _aperio_kind(page): partial(_page_pixels, page)
            for page in map(_full_page, self._tiff.pages)
            if not page.is_tiled
        }

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()
        self._file.close()


@dataclass(init=False)
class _Segments:
    """The tiles or strips of one level. ``planes`` lists (page, index of the plane's first segment)."""

    def __init__(self, pages: list[tifffile.TiffPage], file_size: int) -> None:
        page = pages[0]
        self.width, self.height = int(page.imagewidth), int(page.imagelength)
        check_size(self.width, self.height)
        self.tiled = bool(page.is_tiled)
        self.tile_width = int(page.tilewidth) if self.tiled else self.width
        self.tile_height = int(page.tilelength) if self.tiled else min(int(page.rowsperstrip), self.height)
        check_size(self.tile_width, self.tile_height)
        self.grid = -(-self.height // self.tile_height), -(-self.width // self.tile_width)
        self.planes = self._planes(pages)
        self._check(file_size)

    def _planes(self, pages: list[tifffile.TiffPage]) -> list[tuple[tifffile.TiffPage, int]]:
        if len(pages) == 1 and pages[0].planarconfig == 2:
            step = self.grid[0] * self.grid[1]
            return [(pages[0], plane * step) for plane in range(pages[0].samplesperpixel)]
        return [(page, 0) for page in pages]

    def _check(self, file_size: int) -> None:
        for page, first in self.planes:
            if int(page.photometric) not in (PHOTOMETRIC_GREY, PHOTOMETRIC_RGB, PHOTOMETRIC_YCBCR):
                raise UnsupportedSlideError(f"photometric interpretation {page.photometric!r} is neither grey nor RGB")
            if page.bitspersample != 8:
                raise UnsupportedSlideError(f"{page.bitspersample} bits per sample; only 8 bits are supported")
            if self.tile_width * self.tile_height * page.samplesperpixel > MAX_SEGMENT_BYTES:
                raise UnsupportedSlideError(
                    f"one strip or tile has {self.tile_width} x {self.tile_height} px, too large to decode as a whole"
                )
            self._check_bytes(page, first, file_size)

    def _check_bytes(self, page: tifffile.TiffPage, first: int, file_size: int) -> None:
        """Check that the header lists as many tiles as the size needs, inside the file, and of plausible length."""
        needed = first + self.grid[0] * self.grid[1]
        if min(len(page.dataoffsets), len(page.databytecounts)) < needed:
            raise ImplausibleSlideError(
                f"{self.width} x {self.height} px need {needed} tiles, but the header lists {len(page.dataoffsets)}"
            )
        offsets, counts = np.asarray(page.dataoffsets, np.float64), np.asarray(page.databytecounts, np.float64)
        used = slice(first, needed)
        ends = (offsets[used] + counts[used])[counts[used] > 0]
        end = float(ends.max(initial=0))
        if end > file_size:
            raise TruncatedSlideError(f"the file has {file_size} bytes, but its tiles end at byte {end:.0f}")
        pixel_bytes = self.tile_width * self.tile_height * page.samplesperpixel
        if counts.max(initial=0) > MAX_EXPANSION * pixel_bytes + HEADER_BYTES:
            raise ImplausibleSlideError(
                f"a tile with {pixel_bytes} bytes of pixels has {counts.max():.0f} encoded bytes: not plausible"
            )


def _check_directories(file: FileBytes) -> None:
    """Walk the chain of directories. Raises TruncatedSlideError if one lies past the end of the file.

    tifffile only logs this problem and continues with the directories it found.
    """
    order = "<" if file.read(0, 2) == b"II" else ">"
    big = struct.unpack(order + "H", file.read(2, 2))[0] == BIG_TIFF
    pointer, counter, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
    step, width = struct.calcsize(pointer), struct.calcsize(counter)
    position, seen = 8 if big else 4, set[int]()
    while offset := struct.unpack(order + pointer, file.read(position, step))[0]:
        if offset in seen or len(seen) > MAX_DIRECTORIES:
            raise ImplausibleSlideError("the directories of the file form a loop")
        seen.add(offset)
        (entries,) = struct.unpack(order + counter, file.read(offset, width))
        position = offset + width + entries * entry


def _aperio_kind(page: tifffile.TiffPage) -> str:
    """Return what a striped page of an SVS shows: the second line of its description names label or macro, else it is
    the thumbnail.
    """
    line = (page.description or "").partition("\n")[2].strip().lower()
    return next((name for name in ("label", "macro") if line.startswith(name)), "thumbnail")


def _baseline_pages(tiff: tifffile.TiffFile) -> list[list[tifffile.TiffPage]]:
    """Return the pages of each level, finest first: one page, or three single-channel pages, per level."""
    levels = _ome_pages(tiff) if tiff.is_ome else [[page] for page in _pyramid_pages(tiff)]
    return sorted(levels, key=lambda pages: -int(pages[0].imagewidth))


def _ome_pages(tiff: tifffile.TiffFile) -> list[list[tifffile.TiffPage]]:
    """Return the levels of the first OME image; reduced levels are in SubIFDs."""
    series = tiff.series[0]
    if series.axes not in ("YX", "YXS", "SYX", "CYX") or (series.axes == "CYX" and series.shape[0] not in (1, 3)):
        raise UnsupportedSlideError(
            f"axes {series.axes} of shape {series.shape}: only one plane of grey, RGB or three channels is supported"
        )
    levels = [[page.aspage() for page in level.pages if page is not None] for level in series.levels]
    if not all(levels):
        raise TruncatedSlideError("a level has no pages")
    if any(page.parent is not tiff for pages in levels for page in pages):
        raise UnsupportedSlideError("the OME-XML distributes the image over several files, which is not supported")
    return levels


def _pyramid_pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """Return the first page and its reduced versions, recognised by shape because not every writer marks them.

    In an SVS only tiled pages are levels: the thumbnail, which has the aspect ratio of the slide, is striped.
    """
    first, *others = map(_full_page, tiff.pages)
    others += map(_full_page, first.pages or ())
    others = [page for page in others if page.is_tiled or not tiff.is_svs]
    if any(page.shape == first.shape for page in others):
        raise UnsupportedSlideError("several pages have the full size; stacks of planes are not supported")
    return [first, *(page for page in others if page.dtype == first.dtype and _is_smaller(page, first))]


def _full_page(page: tifffile.TiffPage | tifffile.TiffFrame) -> tifffile.TiffPage:
    return page.aspage()


def _page_pixels(page: tifffile.TiffPage) -> np.ndarray:
    return to_rgb(page.asarray())


def _is_smaller(page: tifffile.TiffPage, first: tifffile.TiffPage) -> bool:
    if not 0 < page.imagewidth < first.imagewidth or page.samplesperpixel != first.samplesperpixel:
        return False
    factor = first.imagewidth / page.imagewidth
    return abs(first.imagelength / factor - page.imagelength) <= 2


def _copyable(segments: _Segments, file: FileBytes, *, aperio: bool) -> TileCoding | None:
    page, _ = segments.planes[0]
    if not segments.tiled or len(segments.planes) > 1 or page.samplesperpixel != 3:
        return None
    corners = _corner_tiles(segments, page, file)
    if page.compression == JPEG:
        return _copyable_jpeg(segments, page, corners)
    if page.compression in JPEG2000:
        return _copyable_jpeg2000(segments, page, corners, aperio=aperio)
    return None


def _corner_tiles(segments: _Segments, page: tifffile.TiffPage, file: FileBytes) -> list[bytes]:
    """Return the first tile that exists and the tiles of the other corners, which a writer may have cropped."""
    rows, columns = segments.grid
    last = rows * columns - 1
    first = next((i for i, count in enumerate(page.databytecounts[: last + 1]) if count), 0)
    indices = {first, columns - 1, last + 1 - columns, last}
    return [file.read(page.dataoffsets[i], page.databytecounts[i]) for i in sorted(indices) if page.databytecounts[i]]


def _copyable_jpeg(segments: _Segments, page: tifffile.TiffPage, corners: list[bytes]) -> TileCoding | None:
    colours: dict[int, Colour] = {PHOTOMETRIC_RGB: "RGB", PHOTOMETRIC_YCBCR: "YCBCR"}
    colour = colours.get(int(page.photometric))
    size = (segments.tile_width, segments.tile_height)
    for tile in corners:
        if not tile.startswith(SOI):
            raise DamagedTilesError("a corner tile is not a JPEG stream")
        frame = read_frame(tile)
        if (frame.width, frame.height) != size or frame.components != 3 or not frame.sequential or frame.precision != 8:
            return None
        # A JFIF or Adobe marker is more reliable than the TIFF tag. Aperio's RGB tiles have neither.
        colour = stated_colour(tile) or colour
    return TileCoding("jpeg", colour, page.jpegtables) if colour and corners else None


def _copyable_jpeg2000(
    segments: _Segments, page: tifffile.TiffPage, corners: list[bytes], *, aperio: bool
) -> TileCoding | None:
    size = (segments.tile_width, segments.tile_height)
    for tile in corners:
        stream = read_codestream(tile)
        if (stream.width, stream.height) != size or stream.components != 3 or stream.precision != 8:
            return None
        if aperio and page.compression == APERIO_JP2_YCBCR and _is_plain_ycbcr(tile):
            return None
    return TileCoding("jpeg2k") if corners else None


def _is_plain_ycbcr(tile: bytes) -> bool:
    """Return whether an Aperio 33003 tile decodes to YCbCr: neither subsampled (openjpeg converts) nor transformed."""
    if CODESTREAM not in tile[:4096]:
        return False
    stream = read_codestream(tile)
    return not stream.subsampled and not stream.colour_transform


def _aperio(description: str) -> tuple[tuple[float, float] | None, dict[str, str]]:
    fields = dict(part.split("=", 1) for part in description.split("|")[1:] if "=" in part)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    mpp = _positive(fields.get("MPP"))
    kept = {f"aperio.{key}": fields[key] for key in APERIO_KEPT if key in fields}
    return ((mpp, mpp) if mpp else None), kept


def _ome_mpp(xml: str) -> tuple[float, float] | None:
    try:
        pixels = next(e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("}Pixels"))
    except (ElementTree.ParseError, StopIteration):
        return None  # the pixels may be intact nevertheless
    sizes = []
    for axis in "XY":
        size = _positive(pixels.get(f"PhysicalSize{axis}"))
        unit = MICRONS_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if size is None or unit is None:
            return None
        sizes.append(size * unit)
    return sizes[0], sizes[1]


def _tag_mpp(page: tifffile.TiffPage) -> tuple[float, float] | None:
    unit = {2: 25_400.0, 3: 10_000.0}.get(_tag(page, "ResolutionUnit"))
    sizes = []
    for name in ("XResolution", "YResolution"):
        value = _tag(page, name)
        if unit is None or not isinstance(value, tuple) or len(value) != 2 or not value[0] or not value[1]:
            return None
        sizes.append(unit * value[1] / value[0])
    return sizes[0], sizes[1]


def _tag(page: tifffile.TiffPage, name: str) -> Any:
    tag = page.tags.get(name)
    return None if tag is None else tag.value


def _positive(text: str | None) -> float | None:
    match = re.match(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?\d+)?)", text or "")
    value = float(match[1]) if match else 0.0
    return value if value > 0 else None
