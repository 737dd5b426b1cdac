"""Owns reading label masks (NPY, PNG, TIFF, Zarr): rasters whose pixel values are classes."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from PIL import Image, UnidentifiedImageError

from histomake.annotation.model import AnnotationError

SUFFIXES = (".npy", ".png", ".tif", ".tiff", ".zarr")
BAND_PIXELS = 1 << 22  # looked at together
MAX_VALUE = 65_535


def open_mask(path: Path) -> Any:
    """An array-like (y, x) of integer labels, memory-mapped or lazily read where the format allows.

    Raises:
        AnnotationError: unreadable, not two-dimensional, or not integer.
    """
    try:
        values = _open(path)
    except (ValueError, OSError, UnidentifiedImageError, Image.DecompressionBombError, KeyError) as error:
        raise AnnotationError(
            f"a label mask that cannot be read ({error})",
            "Save it as NPY, PNG, tiled TIFF or Zarr, one integer a pixel",
        ) from None
    if len(values.shape) != 2:
        raise AnnotationError(f"a label mask must have two axes (y, x), this one has shape {tuple(values.shape)}")
    if not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        raise AnnotationError(f"a label mask must hold integers, this one holds {values.dtype}")
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


def scale_of(shape: tuple[int, int], *, width: int, height: int) -> int:
    """How many level-0 pixels one mask pixel spans: the whole number that maps the mask's shape to the slide's.

    A mask of a pyramid level may be rounded up or down at the far edges, as scanners do.

    Raises:
        AnnotationError: no whole number fits both axes.
    """
    factor = max(1, round(width / shape[1])) if shape[1] else 1
    if all(
        size in (math.floor(full / factor), math.ceil(full / factor))
        for size, full in ((shape[0], height), (shape[1], width))
    ):
        return factor
    turned = " It would fit with its axes swapped: save it as (y, x)." if shape == (width, height) else ""
    raise AnnotationError(
        f"the mask is {shape[1]} x {shape[0]} (w x h), the slide {width} x {height}: no whole scale fits.{turned}",
        "Draw the mask at the slide's full size or at a whole fraction of it",
    )


def count_values(values: Any) -> Counter[int]:
    """Pixels per label, read in bands so that memory does not grow with the mask.

    Raises:
        AnnotationError: a label is negative or above 65,535.
    """
    counts: Counter[int] = Counter()
    height, width = values.shape
    band = max(1, BAND_PIXELS // max(1, width))
    for top in range(0, height, band):
        part = np.asarray(values[top : top + band])
        low, high = int(part.min()), int(part.max())
        if low < 0 or high > MAX_VALUE:
            raise AnnotationError(f"labels run from {low} to {high}; 0 to {MAX_VALUE} are possible")
        pixels = np.bincount(part.ravel())
        counts.update({int(value): int(pixels[value]) for value in np.flatnonzero(pixels)})
    return counts
