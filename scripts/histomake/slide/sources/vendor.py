"""Slides read through OpenSlide: NDPI, MRXS, SCN, BIF, VMS, Philips and others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import openslide
import tifffile

from histomake.slide.sources.base import (
    DamagedSlideError,
    DamagedTilesError,
    Source,
    SourceInfo,
    SourceLevel,
    check_size,
    over_white,
)

BLOCK_PX = 2048
SOURCE_LENS = 65421
"""Tag of an NDPI with the magnification of an image, negative for photographs of the glass and maps."""

# All other vendor properties may identify the patient, the operator or the date.
KEPT = (
    "openslide.objective-power",
    "openslide.bounds-x",
    "openslide.bounds-y",
    "openslide.bounds-width",
    "openslide.bounds-height",
    "openslide.icc-size",
    "openslide.mpp-x",
    "openslide.mpp-y",
    "hamamatsu.XOffsetFromSlideCentre",
    "hamamatsu.YOffsetFromSlideCentre",
    "tiff.Make",
    "tiff.Model",
    "tiff.Software",
)


class OpenSlideSource(Source):
    """A slide read by OpenSlide. Coordinates are OpenSlide's, so the empty margin around ``bounds`` is kept.

    NDPI is re-encoded although it is JPEG: a level is one stream. Its restart intervals could be combined to tiles
    without decoding, but each is 8 rows high and thousands of pixels, or the whole slide, wide. Reading a patch of
    256 px from such tiles would take ten times as long to decode, for every reader and as long as the store exists.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise ValueError(f"OpenSlide cannot open it: {error}") from error
        properties = dict(self._slide.properties)
        for width, height in self._slide.level_dimensions:
            check_size(width, height)
        if properties.get(openslide.PROPERTY_NAME_VENDOR) == "hamamatsu":
            _check_finest(path, self._slide.dimensions)
        self.info = SourceInfo(
            family="openslide",
            vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
            levels=tuple(
                SourceLevel(w, h, min(BLOCK_PX, w), min(BLOCK_PX, h)) for w, h in self._slide.level_dimensions
            ),
            vendor_mpp=_mpp(properties),
            bounds=_bounds(properties),
            properties={key: properties[key] for key in KEPT if key in properties},
        )

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read pixels of ``level``, blended over white, as uint8 (height, width, 3)."""
        downsample = self._slide.level_downsamples[level]
        # OpenSlide expects the corner in level-0 pixels; with a fractional downsample it is off by a little.
        origin = round(x * downsample), round(y * downsample)
        try:
            region = self._slide.read_region(origin, level, (width, height))
        except openslide.OpenSlideError as error:
            raise DamagedTilesError(f"level {level} at ({x}, {y}) cannot be decoded: {error}") from error
        return over_white(np.asarray(region))

    def associated(self) -> dict[str, Callable[[], np.ndarray]]:
        """Return readers of the label, macro and thumbnail images."""
        return {
            name: partial(self._associated, name)
            for name in self._slide.associated_images
            if name in ("label", "macro", "thumbnail")
        }

    def _associated(self, name: str) -> np.ndarray:
        try:
            return over_white(np.asarray(self._slide.associated_images[name]))
        except openslide.OpenSlideError as error:
            raise DamagedTilesError(f"the {name} image cannot be decoded: {error}") from error

    def close(self) -> None:
        """Close the slide."""
        self._slide.close()


def _check_finest(path: Path, size: tuple[int, int]) -> None:
    """Raise DamagedSlideError if an NDPI has a larger image than OpenSlide shows.

    OpenSlide passes over images outside the central focal plane. If a damaged header places the finest one there, the
    next level seems to be the slide, with the resolution of the finest.
    """
    with path.open("rb") as stream:
        if stream.read(2) not in (b"II", b"MM"):
            return  # VMS and VMU
    with tifffile.TiffFile(path) as tiff:
        pages = [page.aspage() for page in tiff.pages]
        lenses = [page.tags.get(SOURCE_LENS) for page in pages]
        scans = [page for page, lens in zip(pages, lenses, strict=True) if lens is not None and lens.value > 0]
    largest = max((int(page.imagewidth) * int(page.imagelength) for page in scans), default=0)
    if largest > size[0] * size[1]:
        raise DamagedSlideError(f"the file has a larger image than the {size[0]} x {size[1]} px of its focal plane")


def _mpp(properties: dict[str, str]) -> tuple[float, float] | None:
    try:
        return float(properties[openslide.PROPERTY_NAME_MPP_X]), float(properties[openslide.PROPERTY_NAME_MPP_Y])
    except (KeyError, ValueError):
        return None


def _bounds(properties: dict[str, str]) -> tuple[int, int, int, int] | None:
    try:
        x, y, width, height = (int(properties[f"openslide.bounds-{part}"]) for part in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    return x, y, width, height
