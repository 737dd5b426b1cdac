"""TIFF slides: Aperio SVS, OME-TIFF and generic TIFF, tiled or striped, parsed by tifffile."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import tifffile

from histomake.slide.same_content import is_reduced
from histomake.slide.sources.base import (
    MAX_ASSOCIATED_PX,
    UNKNOWN,
    FileBytes,
    ImplausibleSlideError,
    Source,
    SourceInfo,
    TileBytes,
    UnsupportedSlideError,
)
from histomake.slide.sources.tiff_metadata import aperio, check_aperio_size, tag_mpp
from histomake.slide.sources.tiff_pages import MAX_OTHER_SHARE, REDUCED, Choice, Page, choose
from histomake.slide.sources.tiff_segments import Segments

BIG_TIFF = 43
MAX_DIRECTORIES = 10_000


class TiffSource(Source):
    """A TIFF slide. Pixels are decoded one tile at a time, from any number of threads."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = FileBytes(path)
        try:
            _check_directories(self._file)
            self._tiff = tifffile.TiffFile(path)
            self._choice = choose(self._tiff)
            self._levels = [Segments(self._choice.slide, self._file)]
            if self._tiff.is_svs:
                check_aperio_size(self._aperio_text(), self._levels[0].width, self._levels[0].height)
            self._left_out = dict(self._choice.left_out)
            self._add_levels(self._choice)
            self._refuse_doubtful(self._choice)
            self.info = self._describe()
        except BaseException:
            self._file.close()
            raise

    def _add_levels(self, choice: Choice) -> None:
        """Add the images that show the content of the slide; list the others."""
        for name, pages in choice.reduced:
            finer = self._levels[-1]
            if (pages[0].imagewidth, pages[0].imagelength) == (finer.width, finer.height):
                self._left_out[name] = "left out: another image has the same size"
                continue
            if not any(pages[0].databytecounts):
                self._left_out[name] = "left out: all its tiles are absent"
                continue
            segments = Segments(pages, self._file)
            if is_reduced(segments.level(), segments.read, finer.level(), finer.read, segments.tile_bytes.counts):
                self._levels.append(segments)
            else:
                choice.others.append((name, pages))

    def _refuse_doubtful(self, choice: Choice) -> None:
        """List all other images. Raises UnsupportedSlideError if one of them may be the slide instead."""
        slide, area = choice.slide[0], self._levels[0].width * self._levels[0].height
        for name, pages in choice.others:
            share = int(pages[0].imagewidth) * int(pages[0].imagelength) / area
            stated = not int(pages[0].subfiletype) & REDUCED
            if stated and (share >= MAX_OTHER_SHARE or int(slide.subfiletype) & REDUCED):
                raise UnsupportedSlideError(
                    f"the file has several images, and nothing states which is the slide: {name} has {share:.0%} of "
                    "the area of the largest and shows something else"
                )
            self._left_out[name] = UNKNOWN

    def _aperio_text(self) -> str:
        return str(self._levels[0].page.description or self._tiff.pages.first.description)

    def _describe(self) -> SourceInfo:
        page = self._levels[0].page
        vendor, mpp = "generic-tiff", self._choice.mpp
        properties: dict[str, str] = {}
        if self._tiff.is_svs:
            vendor, (mpp, properties) = "aperio", aperio(self._aperio_text())
        elif self._tiff.is_ome:
            vendor = "ome-tiff"
        orientation = page.tags.get("Orientation")
        unit = (self._tiff.imagej_metadata or {}).get("unit") if self._tiff.is_imagej else None
        return SourceInfo(
            family="tiff",
            vendor=vendor,
            levels=tuple(segments.level() for segments in self._levels),
            vendor_mpp=mpp,
            tag_mpp=tag_mpp(page, unit),
            properties=properties,
            orientation=1 if orientation is None else int(orientation.value),
            left_out=self._left_out,
        )

    def tile_bytes(self, level: int) -> TileBytes:
        """Return the byte ranges of the tiles from the TileOffsets and TileByteCounts tags."""
        return self._levels[level].tile_bytes

    def missing(self, level: int) -> np.ndarray | None:
        """Return which tiles have no bytes."""
        return self._levels[level].missing()

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read pixels of ``level`` as uint8 (height, width, 3)."""
        return self._levels[level].read(x, y, width, height)

    def associated(self) -> dict[str, Callable[[], np.ndarray]]:
        """Return readers of the images whose role the file states."""
        return {role: partial(self._picture, page) for role, page in self._choice.associated.items()}

    def _picture(self, page: Page) -> np.ndarray:
        if not 0 < int(page.imagewidth) * int(page.imagelength) <= MAX_ASSOCIATED_PX:
            raise UnsupportedSlideError(f"it has {page.imagewidth} x {page.imagelength} px")
        segments = Segments([page], self._file)
        return segments.read(0, 0, segments.width, segments.height)

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()
        self._file.close()


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
