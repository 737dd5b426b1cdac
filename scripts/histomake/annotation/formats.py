"""File formats of annotations, by suffix. Imports are light, because the workflow uses this module for planning."""

from pathlib import Path

MASK_SUFFIXES = (".npy", ".png", ".tif", ".tiff", ".zarr")
"""Suffixes of label masks. They give a label image; all other formats give regions."""


def is_mask(path: Path | str | None) -> bool:
    """Return whether an annotation file is a label mask; False for None."""
    return path is not None and Path(path).suffix.lower() in MASK_SUFFIXES
