"""File formats of annotations, by suffix. Light: the workflow reads it when it is planned."""

from pathlib import Path

MASK_SUFFIXES = (".npy", ".png", ".tif", ".tiff", ".zarr")
"""Label masks. Their annotation has a label image; that of every other format has regions."""


def is_mask(path: Path | str | None) -> bool:
    """Whether an annotation file is a label mask. No file is none."""
    return path is not None and Path(path).suffix.lower() in MASK_SUFFIXES
