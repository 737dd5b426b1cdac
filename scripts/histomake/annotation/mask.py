"""Reader for label masks (NPY, PNG, TIFF, Zarr): rasters whose pixel values are classes."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import zarr
from PIL import Image

from histomake.annotation.drawn import AnnotationError
from histomake.annotation.png_rows import PngRows
from histomake.base.npy import map_npy
from histomake.base.units import Level0Pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

PART_PX = 1024
"""The edges of the parts in which a mask is read are multiples of this."""
WHOLE_PX = 1 << 27
"""A PNG of at most this size is held in memory, so that it can be read in any order."""
MAX_PART_BYTES = 1 << 30
"""Largest strip, tile or chunk that is decoded."""
MAX_VALUE = 65_535
LOSSLESS = (1, 5, 8, 32773, 32946, 50000)
"""TIFF compressions whose tiles decompress to their pixels: none, LZW, deflate, PackBits, old deflate, zstd."""
REMEDY = "Save it as NPY, PNG, tiled TIFF or Zarr with one integer per pixel"
LONGEST = 300


@dataclass(frozen=True)
class LabelMask:
    """A label mask in a file, integers (y, x), read in parts.

    values: array-like of the file's library; chunks: rows and columns that are stored together; doubts: sentences on
    what is missing or ambiguous in the file, and how it is read.
    """

    values: Any
    chunks: tuple[int, int] = (1, 1)
    doubts: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in mask pixels."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the labels; uint8 for masks of true and false."""
        return np.dtype(np.uint8) if np.issubdtype(self.values.dtype, np.bool_) else np.dtype(self.values.dtype)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read a part. Raises AnnotationError for any exception of the file's library."""
        try:
            part = np.asarray(self.values[index])
        except Exception as error:
            raise _unreadable(error) from error
        return part.astype(np.uint8) if part.dtype == bool else part


def open_mask(path: Path, *, in_order: bool = False) -> LabelMask:
    """Open a label mask, memory-mapped or read lazily if the format allows it.

    Args:
        path: the file, or the folder of a Zarr array.
        in_order: it will be read from top to bottom, see `parts`. Then a PNG may have any size.

    Raises:
        AnnotationError: The mask is unreadable, not two-dimensional, or not of an integer type.
    """
    try:
        mask = OPENERS[path.suffix.lower()](path, in_order)
    except AnnotationError:
        raise
    except Exception as error:
        raise _unreadable(error) from error
    shape, kind = mask.values.shape, mask.values.dtype
    if len(shape) != 2:
        raise AnnotationError(f"a label mask must have two axes (y, x), but this one has shape {tuple(shape)}")
    if not (np.issubdtype(kind, np.integer) or np.issubdtype(kind, np.bool_)):
        raise AnnotationError(f"a label mask must contain integers, but this one contains {kind}")
    if math.prod(mask.chunks) * mask.dtype.itemsize > MAX_PART_BYTES:
        raise AnnotationError(
            f"{mask.chunks[1]} x {mask.chunks[0]} px of the mask are compressed together, more than fit into memory",
            "Save it in tiles or strips of at most 1024 rows",
        )
    return mask


def _unreadable(error: Exception) -> AnnotationError:
    """Message for an exception of a library, whose traceback goes into the log."""
    if isinstance(error, AnnotationError):
        return error
    log.error("the label mask cannot be read", exc_info=error)
    said = " ".join(str(error).split())[:LONGEST]
    return AnnotationError(f"the label mask cannot be read ({type(error).__name__}: {said})", REMEDY)


def _open_npy(path: Path, _in_order: bool) -> LabelMask:
    return LabelMask(map_npy(path))


def _open_png(path: Path, in_order: bool) -> LabelMask:
    rows = PngRows(path)
    height, width = rows.shape
    small = height * width <= WHOLE_PX
    if rows.interlaced and small:
        with Image.open(path) as image:
            return LabelMask(np.asarray(image))
    if rows.interlaced or not (small or in_order):
        kind = ", interlaced" if rows.interlaced else ""
        raise AnnotationError(
            f"the PNG is too large here ({width} x {height} px{kind})", "Save it as tiled TIFF or Zarr"
        )
    if small:
        return LabelMask(rows[:, :])
    return LabelMask(rows, (1, width))


def _open_zarr(path: Path, _in_order: bool) -> LabelMask:
    found = zarr.open(path, mode="r")
    if isinstance(found, zarr.Group):
        found = found.get("0") or found
    if not isinstance(found, zarr.Array):
        raise AnnotationError("the Zarr group has no array named 0", "Give the path of the array")
    absent = found.nchunks - found.nchunks_initialized
    doubts = [f"{absent} of {found.nchunks} chunks are absent and read as {found.fill_value}."] if absent else []
    stored = found.shards or found.chunks
    return LabelMask(found, (stored[0], stored[-1]), tuple(doubts))


def _open_tiff(path: Path, _in_order: bool) -> LabelMask:
    with tifffile.TiffFile(path) as tiff:
        series, size = list(tiff.series), tiff.filehandle.size
        if not series:
            raise AnnotationError("the TIFF contains no image")
        first, page = series[0], series[0].levels[0].keyframe
        if any(math.prod(other.shape) >= math.prod(first.shape) for other in series[1:]):
            raise AnnotationError(f"the TIFF contains {len(series)} images; keep the mask alone")
        _check_page(page, size)
        _check_first_part(page)
    values = zarr.open_array(tifffile.imread(path, aszarr=True, level=0), mode="r")
    kind, absent = "tiles" if page.is_tiled else "strips", page.databytecounts.count(0)
    doubts = [f"{absent} of {len(page.databytecounts)} {kind} are absent and read as 0."] if absent else []
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        doubts.append(
            "The TIFF says that 0 is white (WhiteIsZero). Its stored values are the labels, which some programs invert."
        )
    return LabelMask(values, (values.chunks[0], values.chunks[-1]), tuple(doubts))


def _check_page(page: tifffile.TiffPage, size: int) -> None:
    """Raise AnnotationError for a page that would be read in part."""
    stored = math.prod(page.chunked)
    if len(page.dataoffsets) != stored or len(page.databytecounts) != stored:
        raise AnnotationError(f"the TIFF lists {len(page.dataoffsets)} of its {stored} tiles or strips; it is damaged")
    ends = (start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True) if count)
    if max(ends, default=0) > size:
        raise AnnotationError(f"the TIFF ends after {size} bytes, before its last tile or strip", "Copy it again")


def _check_first_part(page: tifffile.TiffPage) -> None:
    """Raise AnnotationError where the first tile or strip is not as long as size and bits per pixel say.

    tifffile reads the beginning of a longer one, which gives other labels.
    """
    stored = next((i for i, count in enumerate(page.databytecounts) if count), None)
    if stored is None or page.compression not in LOSSLESS:
        return
    handle = page.parent.filehandle
    handle.seek(page.dataoffsets[stored])
    data = handle.read(page.databytecounts[stored])
    decoded = data if page.compression == 1 else tifffile.TIFF.DECOMPRESSORS[page.compression](data)
    rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength - stored * page.rowsperstrip)
    width = page.tilewidth if page.is_tiled else page.imagewidth
    needed = rows * ((width * page.samplesperpixel * page.bitspersample + 7) // 8)
    if len(decoded) != needed:
        raise AnnotationError(
            f"a tile or strip of the TIFF has {len(decoded)} bytes, but size and bits per pixel need {needed}; it is "
            "damaged"
        )


OPENERS: dict[str, Callable[[Path, bool], LabelMask]] = {
    ".npy": _open_npy,
    ".png": _open_png,
    ".tif": _open_tiff,
    ".tiff": _open_tiff,
    ".zarr": _open_zarr,
}
"""How masks are opened, by suffix: those of `formats.MASK_SUFFIXES`."""


def scale_of(shape: tuple[int, int], *, width: Level0Pixels, height: Level0Pixels, what: str = "mask") -> int:
    """Return the whole number of level-0 pixels per mask pixel that maps the mask's shape to the slide's shape.

    The mask of a pyramid level may be rounded up or down at the far edges, as in the files of scanners.

    Raises:
        AnnotationError: No whole number fits both axes.
    """
    factor = max(1, round(width / shape[1])) if shape[1] else 1
    if all(
        size in (math.floor(full / factor), math.ceil(full / factor))
        for size, full in ((shape[0], height), (shape[1], width))
    ):
        return factor
    turned = " It would fit with swapped axes: save it as (y, x)." if shape == (width, height) else ""
    raise AnnotationError(
        f"the {what} is {shape[1]} x {shape[0]} px (w x h), the slide {width} x {height}: no whole scale fits.{turned}",
        f"Draw the {what} at the slide's full size or at a whole fraction of it",
    )


def parts(shape: tuple[int, int], chunks: tuple[int, int] = (1, 1)) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the parts in which a raster is read, from top to bottom; few parts share a chunk."""
    height, width = (PART_PX * math.ceil(length / PART_PX) for length in chunks)
    for top in range(0, shape[0], height):
        for left in range(0, shape[1], width):
            yield slice(top, min(top + height, shape[0])), slice(left, min(left + width, shape[1]))


def count_values(mask: LabelMask) -> Counter[int]:
    """Count the pixels of each label. The mask is read in parts, so memory does not grow with its size.

    Raises:
        AnnotationError: A part cannot be read, or a label is negative or above 65,535.
    """
    counts: Counter[int] = Counter()
    for rows, columns in parts(mask.shape, mask.chunks):
        part = mask[rows, columns]
        low, high = int(part.min()), int(part.max())
        if low < 0 or high > MAX_VALUE:
            raise AnnotationError(f"labels range from {low} to {high}, but must be between 0 and {MAX_VALUE}")
        pixels = np.bincount(part.ravel())
        counts.update({int(value): int(pixels[value]) for value in np.flatnonzero(pixels)})
    return counts
