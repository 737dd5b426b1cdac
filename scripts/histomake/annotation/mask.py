"""Reader for label masks (NPY, PNG, TIFF, Zarr): rasters whose pixel values are classes."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from PIL import Image, UnidentifiedImageError

from histomake.annotation.drawn import AnnotationError
from histomake.base.units import Level0Pixels

BAND_PIXELS = 1 << 22  # pixels read at a time
MAX_VALUE = 65_535


def open_mask(path: Path) -> Any:
    """Open an array-like (y, x) of integer labels, memory-mapped or read lazily if the format allows it.

    Raises:
        AnnotationError: The mask is unreadable, not two-dimensional, or not of an integer type.
    """
    try:
        values = _open(path)
    except (ValueError, OSError, UnidentifiedImageError, Image.DecompressionBombError, KeyError) as error:
        raise AnnotationError(
            f"the label mask cannot be read ({error})",
            "Save it as NPY, PNG, tiled TIFF or Zarr with one integer per pixel",
        ) from None
    if len(values.shape) != 2:
        raise AnnotationError(f"a label mask must have two axes (y, x), but this one has shape {tuple(values.shape)}")
    if not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        raise AnnotationError(f"a label mask must contain integers, but this one contains {values.dtype}")
    return values


def _open(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if suffix == ".png":
        with Image.open(path) as image:
            return np.asarray(image)
    if suffix == ".zarr":
        found = zarr.open(path, mode="r")
        return found["0"] if isinstance(found, zarr.Group) else found
    return zarr.open(tifffile.imread(path, aszarr=True, level=0), mode="r")


def scale_of(shape: tuple[int, int], *, width: Level0Pixels, height: Level0Pixels) -> int:
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
        f"the mask is {shape[1]} x {shape[0]} px (w x h), the slide {width} x {height}: no whole scale fits.{turned}",
        "Draw the mask at the slide's full size or at a whole fraction of it",
    )


def count_values(values: Any) -> Counter[int]:
    """Count the pixels of each label. The mask is read in bands, so memory does not grow with its size.

    Raises:
        AnnotationError: A label is negative or above 65,535.
    """
    counts: Counter[int] = Counter()
    height, width = values.shape
    band = max(1, BAND_PIXELS // max(1, width))
    for top in range(0, height, band):
        part = np.asarray(values[top : top + band])
        low, high = int(part.min()), int(part.max())
        if low < 0 or high > MAX_VALUE:
            raise AnnotationError(f"labels range from {low} to {high}, but must be between 0 and {MAX_VALUE}")
        pixels = np.bincount(part.ravel())
        counts.update({int(value): int(pixels[value]) for value in np.flatnonzero(pixels)})
    return counts
