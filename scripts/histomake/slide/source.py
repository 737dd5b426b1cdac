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
from histomake.slide.absent import CompletedSource
from histomake.slide.companions import missing_companions
from histomake.slide.orientation import UPRIGHT, UprightSource
from histomake.slide.sources.base import (
    PARSE_ERRORS,
    DamagedSlideError,
    DamagedTilesError,
    ImplausibleSlideError,
    MissingFilesError,
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

SQUARE = 0.01
"""Largest relative difference of the resolutions along x and y. Scanners state up to 0.5 % from their calibration."""

_REASONS = {
    UnsupportedSlideError: (Reason.UNSUPPORTED, "Export the slide, upright and alone, to a pyramidal 8-bit RGB TIFF"),
    MissingFilesError: (Reason.UNREADABLE, "Give the slide with all its files, as the scanner wrote them"),
    DamagedSlideError: (Reason.DAMAGED, "Copy the file again from the scanner and compare checksums"),
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
    except MemoryError as error:
        raise SlideError(
            Reason.OUT_OF_MEMORY,
            slide_id=slide_id,
            path=path,
            detail="the slide needs more memory than the job may have",
            remedy="Export it to a pyramidal TIFF with tiles of 256 px, or convert it again with more: "
            f"--set-resources convert:mem_mb=MB --forcerun RESULTS/slides/{slide_id}.json",
        ) from error


def open_source(path: Path | str, *, slide_id: str) -> Source:
    """Open a slide file or DICOM folder. The format is detected from the content, not from the file name.

    The slide is shown upright, and tiles that only a reduced level lacks are made from the finer one.

    Raises SlideError if the slide cannot be read.
    """
    path = Path(path)
    with slide_errors(slide_id, path):
        try:
            source = _family(path)(path)
            try:
                return _whole_and_upright(source)
            except BaseException:
                source.close()
                raise
        except OSError as error:
            raise _cannot_be_read(
                error, Reason.UNREADABLE, slide_id, path, "Check the path and its permissions"
            ) from error
        except PARSE_ERRORS as error:
            remedy = "The file is not complete, or damaged: copy it again from the scanner and compare checksums"
            raise _cannot_be_read(error, Reason.DAMAGED, slide_id, path, remedy) from error


def _whole_and_upright(source: Source) -> Source:
    missing = source.missing(0)
    if missing is not None and missing.all():
        raise DamagedSlideError("the file holds no pixels: all tiles of its finest level are absent")
    source = CompletedSource.of(source)
    return source if source.info.orientation == UPRIGHT else UprightSource(source, source.info.orientation)


def _cannot_be_read(error: Exception, reason: Reason, slide_id: str, path: Path, remedy: str) -> SlideError:
    detail = f"the file cannot be read ({type(error).__name__}: {error})"
    return SlideError(reason, slide_id=slide_id, path=path, detail=detail, remedy=remedy)


def _family(path: Path) -> type[Source]:
    if path.is_dir():
        return _family_of_folder(path)
    with path.open("rb") as stream:
        head = stream.read(132)
    if not head:
        raise TruncatedSlideError("the file is empty")
    if head.startswith(NPY_MAGIC):
        return NpySource
    if head.endswith(b"DICM"):
        return DicomSource
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor is None and (missing := missing_companions(path)):
        raise MissingFilesError(missing)
    if head.startswith(TIFF_MAGIC) and vendor in TIFFFILE_VENDORS:
        return TiffSource
    if vendor is not None:
        return OpenSlideSource
    if head.startswith(PICTURE_MAGIC):
        return PictureSource
    raise UnsupportedSlideError(f"the content matches no supported slide format (it begins with {head[:8]!r})")


def _family_of_folder(path: Path) -> type[Source]:
    """Return the reader of a folder: DICOM. Raises an error that says what else the folder is."""
    names = {entry.name.lower() for entry in path.iterdir()}
    if names & {"zarr.json", ".zgroup", ".zattrs", ".zarray"}:
        raise UnsupportedSlideError("the folder is a Zarr store, not a slide; give the file that it was made from")
    if "slidedat.ini" in names:
        raise MissingFilesError(f"the folder holds the data of {path.name}.mrxs; give that file, which lies beside it")
    return DicomSource


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
    a usable value, and SlideError (UNSUPPORTED) if pixels are not square, whatever the sheet says: patches would be
    stretched.
    """
    refused = []
    stated: tuple[tuple[MppSource, tuple[float, float] | None, tuple[float, float]], ...] = (
        ("vendor", info.vendor_mpp, VENDOR_MPP),
        ("tiff_tags", info.tag_mpp, TAG_MPP),
    )
    for origin, mpp, (low, high) in stated:
        if mpp is None:
            continue
        if all(low <= value <= high for value in mpp):
            _check_square(mpp, origin, slide_id, path)
            return _sheet_or(sheet_mpp, Resolution(Mpp(mpp[0]), Mpp(mpp[1]), origin))
        refused.append(f"{origin} states {mpp[0]:.4g} µm per pixel, outside {low} to {high}")
    if sheet_mpp is not None:
        return Resolution(sheet_mpp, sheet_mpp, "sheet")
    detail = "no usable mpp" + (f": {', '.join(refused)}" if refused else "; the file does not state one")
    remedy = "Enter the resolution in the mpp column of the slide sheet"
    raise SlideError(Reason.NO_MPP, slide_id=slide_id, path=path, detail=detail, remedy=remedy)


def _sheet_or(sheet_mpp: Mpp | None, stated: Resolution) -> Resolution:
    return stated if sheet_mpp is None else Resolution(sheet_mpp, sheet_mpp, "sheet")


def _check_square(mpp: tuple[float, float], origin: MppSource, slide_id: str, path: Path) -> None:
    if abs(mpp[0] / mpp[1] - 1) > SQUARE:
        detail = f"{origin} states pixels of {mpp[0]:.4g} x {mpp[1]:.4g} µm, which are not square"
        remedy = "Export the slide with square pixels. A resolution in the sheet would not change their shape"
        raise SlideError(Reason.UNSUPPORTED, slide_id=slide_id, path=path, detail=detail, remedy=remedy)
