"""Owns the slides that only OpenSlide parses: NDPI, MRXS, SCN, BIF, VMS, Philips and others."""

from __future__ import annotations

import configparser
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import openslide

from histomake.slide.sources.base import DamagedTilesError, Source, SourceInfo, SourceLevel, check_size, over_white

BLOCK_PX = 2048
# Everything else a vendor writes may name the patient, the operator or the day.
KEPT = (
    "openslide.objective-power",
    "openslide.bounds-x",
    "openslide.bounds-y",
    "openslide.bounds-width",
    "openslide.bounds-height",
    "openslide.icc-size",
    "tiff.Make",
    "tiff.Model",
    "tiff.Software",
)


class OpenSlideSource(Source):
    """A slide behind OpenSlide; coordinates are OpenSlide's, so the empty margin around ``bounds`` is kept.

    NDPI is encoded again although it is JPEG: a level is one stream, whose restart intervals could be stacked into
    tiles without decoding, but each is 8 rows high and as wide as thousands of pixels, or the slide. Such tiles would
    cost a patch of 256 px ten times the decoding, for every reader, for as long as the store is kept.
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

    @property
    def files(self) -> list[Path]:
        """The slide file and the files it stands for."""
        return [self.path, *companions(self.path)]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of ``level``, laid over white: uint8 (height, width, 3)."""
        downsample = self._slide.level_downsamples[level]
        # OpenSlide wants the corner in level-0 pixels, which a fractional downsample misses by a little.
        origin = round(x * downsample), round(y * downsample)
        try:
            region = self._slide.read_region(origin, level, (width, height))
        except openslide.OpenSlideError as error:
            raise DamagedTilesError(f"level {level} at ({x}, {y}) cannot be decoded: {error}") from error
        return over_white(np.asarray(region))

    def associated(self) -> dict[str, Callable[[], np.ndarray]]:
        """Label, macro and thumbnail images."""
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


def companions(path: Path) -> list[Path]:
    """Files that hold the pixels of ``path``: the folder beside an MRXS, what a VMS or VMU names, sorted."""
    suffix = path.suffix.lower()
    if suffix == ".mrxs" and path.with_suffix("").is_dir():
        return sorted(p for p in path.with_suffix("").rglob("*") if p.is_file())
    if suffix not in (".vms", ".vmu"):
        return []
    index = configparser.ConfigParser(strict=False, interpolation=None)
    index.read_string(path.read_text(errors="replace"))
    names = {value for section in index.sections() for value in index[section].values() if value}
    return sorted(path.parent / name for name in names if "/" not in name and (path.parent / name).is_file())


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
