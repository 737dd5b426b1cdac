"""Opening of slide files, with the format detected from the content, and choice of the resolution."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openslide

from histomake.base.errors import Reason, SlideError
from histomake.base.records.manifest import MppSource
from histomake.base.units import Mpp
from histomake.slide.sources.base import (
    PARSE_ERRORS,
    DamagedTilesError,
    ImplausibleSlideError,
    Source,
    SourceInfo,
    TruncatedSlideError,
    UnsupportedSlideError,
)
from histomake.slide.sources.dicom import DicomSource
from histomake.slide.sources.plain import PNG_MAGIC, NpySource, PictureSource
from histomake.slide.sources.tiff import TiffSource
from histomake.slide.sources.vendor import OpenSlideSource

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PICTURE_MAGIC = (PNG_MAGIC, b"\xff\xd8\xff")
NPY_MAGIC = b"\x93NUMPY"
TIFFFILE_VENDORS = (None, "aperio", "generic-tiff")

VENDOR_MPP = (0.05, 100.0)
"""Accepted range of vendor metadata in µm per pixel; overview scans are much coarser than diagnostic ones."""

TAG_MPP = (0.05, 20.0)
"""Accepted range of TIFF resolution tags in µm per pixel; software often writes print resolutions or zeros there."""

_REASONS = {
    UnsupportedSlideError: (Reason.UNSUPPORTED, "Export the slide to a pyramidal 8-bit RGB TIFF"),
    TruncatedSlideError: (Reason.TRUNCATED, "Copy the file again from the scanner and compare checksums"),
    ImplausibleSlideError: (Reason.IMPLAUSIBLE_SIZE, "The header is damaged or forged; copy the file again"),
    DamagedTilesError: (Reason.DAMAGED_TILES, "Copy the file again from the scanner, or scan the glass again"),
}


@contextmanager
def slide_errors(slide_id: str, path: Path) -> Iterator[None]:
    """Convert the exceptions that a source raises for its own file to a SlideError for the slide."""
    try:
        yield
    except tuple(_REASONS) as error:
        reason, remedy = _REASONS[type(error)]
        raise SlideError(reason, slide_id=slide_id, path=path, detail=str(error), remedy=remedy) from error


def open_source(path: Path | str, *, slide_id: str) -> Source:
    """Open a slide file or DICOM folder. The format is detected from the content, not from the file name.

    Raises SlideError if the slide cannot be read.
    """
    path = Path(path)
    with slide_errors(slide_id, path):
        try:
            return _family(path)(path)
        except PARSE_ERRORS as error:
            raise SlideError(
                Reason.UNREADABLE,
                slide_id=slide_id,
                path=path,
                detail=f"the file cannot be read ({type(error).__name__}: {error})",
                remedy="Check that the file is a complete slide",
            ) from error


def _family(path: Path) -> type[Source]:
    if path.is_dir():
        return DicomSource
    with path.open("rb") as stream:
        head = stream.read(132)
    if not head:
        raise TruncatedSlideError("the file is empty")
    if head.startswith(NPY_MAGIC):
        return NpySource
    if head.endswith(b"DICM"):
        return DicomSource
    vendor = openslide.OpenSlide.detect_format(path)
    if head.startswith(TIFF_MAGIC) and vendor in TIFFFILE_VENDORS:
        return TiffSource
    if vendor is not None:
        return OpenSlideSource
    if head.startswith(PICTURE_MAGIC):
        return PictureSource
    raise UnsupportedSlideError(f"the content matches no supported slide format (it begins with {head[:8]!r})")


@dataclass(frozen=True)
class Resolution:
    """µm per level-0 pixel along x and y, and the origin of the value: sheet, vendor or tiff_tags."""

    x: Mpp
    y: Mpp
    origin: MppSource

    @property
    def mpp(self) -> Mpp:
        """The resolution used everywhere: the mean of both axes."""
        return Mpp((self.x + self.y) / 2)


def resolve_mpp(info: SourceInfo, sheet_mpp: Mpp | None, *, slide_id: str, path: Path) -> Resolution:
    """Return the resolution from the sheet, else from vendor metadata, else from TIFF resolution tags.

    Metadata and tags are used only if they are within plausible bounds. Raises SlideError (NO_MPP) if no source gives
    a usable value.
    """
    if sheet_mpp is not None:
        return Resolution(sheet_mpp, sheet_mpp, "sheet")
    refused = []
    stated: tuple[tuple[MppSource, tuple[float, float] | None, tuple[float, float]], ...] = (
        ("vendor", info.vendor_mpp, VENDOR_MPP),
        ("tiff_tags", info.tag_mpp, TAG_MPP),
    )
    for origin, mpp, (low, high) in stated:
        if mpp is None:
            continue
        if all(low <= value <= high for value in mpp):
            return Resolution(Mpp(mpp[0]), Mpp(mpp[1]), origin)
        refused.append(f"{origin} states {mpp[0]:.4g} µm per pixel, outside {low} to {high}")
    detail = "no usable mpp" + (f": {', '.join(refused)}" if refused else "; the file does not state one")
    remedy = "Enter the resolution in the mpp column of the slide sheet"
    raise SlideError(Reason.NO_MPP, slide_id=slide_id, path=path, detail=detail, remedy=remedy)
