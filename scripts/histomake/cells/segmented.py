"""Cells from masks in which touching cells are one piece: predicted segmentations, and masks of classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from histomake.base.records.manifest import Manifest
from histomake.base.units import Mpp
from histomake.base.windows import Window
from histomake.cells.parting import depth_px, parted
from histomake.cells.source import CellSource
from histomake.cells.tile import Tile
from histomake.config import Cells

if TYPE_CHECKING:
    from numpy.typing import NDArray


def from_cascade(store: Path, _manifest: Manifest, config: Cells) -> CellSource:
    """Return the nuclei of a slide as a RADHicaL cascade parted them; ``store``: its label image."""
    group = zarr.open_group(store, mode="r")
    scale, mpp = float(group.attrs["level0_pixels_per_pixel"]), Mpp(float(group.attrs["mpp"]))  # type: ignore[arg-type]
    parted_so = config.model_copy(update={"neck_um": group.attrs["neck_um"]})
    return part_classes(group["labels"], [], scale=scale, mpp=mpp, config=parted_so)


def from_task(store: Path, manifest: Manifest, config: Cells) -> CellSource:
    """Return the cells of a slide that a task segmented; ``store``: its label image."""
    group = zarr.open_group(store, mode="r")
    attributes: Any = group.attrs["ome"]
    names = [entry["class"] for entry in attributes["image-label"]["properties"]]
    transformations = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    mpp = Mpp(float(transformations[0]["scale"][0]))
    return part_classes(group["0"], names, scale=mpp / manifest.mpp, mpp=mpp, config=config)


def part_classes(values: Any, class_names: Sequence[str], *, scale: float, mpp: Mpp, config: Cells) -> CellSource:
    """Return the objects of a label image, parted where they touch.

    A cell's class is the one of most of its pixels: a network often gives a part of a nucleus another class.

    Args:
        values: Array-like (y, x) of integers: 0 is background, i + 1 is ``class_names[i]``; without names, all others
            are cells.
        class_names: Classes in the order of the values.
        scale: Level-0 pixels per pixel.
        mpp: Resolution of the label image.
        config: The section ``cells.<name>``.
    """
    wanted = [i + 1 for i, name in enumerate(class_names) if not config.classes or name in config.classes]
    height, width = values.shape
    shape = int(height), int(width)

    def read(window: Window) -> NDArray[np.bool_]:
        found = np.asarray(values[window.slices])
        return np.isin(found, wanted) if class_names else found > 0

    def tiles() -> Iterator[Tile]:
        depth = depth_px(config.neck_um, mpp)
        least = math.ceil(config.min_area_um2 / mpp**2)
        for tile in parted(read, shape, depth=depth, least=least):
            if tile.count:
                yield replace(tile, classes=_classes(tile, values, wanted)) if class_names else tile

    return CellSource(shape, scale, mpp, tuple(class_names[i - 1] for i in wanted), tiles)


def _classes(tile: Tile, values: Any, wanted: Sequence[int]) -> NDArray[np.uint8]:
    """Return the position in ``wanted`` of the value that most pixels of each object have, uint8 (count,)."""
    inside = tile.labels > 0
    # Every pixel of an object has one of the wanted values, which are ascending.
    value = np.searchsorted(wanted, np.asarray(values[tile.window.slices])[inside])
    both = (tile.labels[inside] - 1).astype(np.int64) * len(wanted) + value
    counts = np.bincount(both, minlength=tile.count * len(wanted)).reshape(tile.count, len(wanted))
    return counts.argmax(axis=1).astype(np.uint8)
