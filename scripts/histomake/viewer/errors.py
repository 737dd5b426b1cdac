"""Differences between segmentations and annotation in the viewer, drawn as tiles like masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from histomake.annotation.model import Annotation
from histomake.annotation.raster import rasterise
from histomake.base.files import existing, store_of
from histomake.base.kinds import BACKGROUND
from histomake.base.layout import Layout
from histomake.base.records.model_card import ModelCard
from histomake.base.units import Level0Pixels
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table
from histomake.pictures import canvas
from histomake.viewer import masks
from histomake.viewer.masks import TILE, Mask, MaskTiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

ERRORS = "errors"
"""End of the names of these layers, after a dot, which names of tasks cannot contain."""

KINDS = {
    "as annotated": canvas.RIGHT,
    "missed": canvas.MISSED,
    "not annotated": canvas.FALSE_ALARM,
    "annotated as another class": canvas.PALETTE[3],
}
"""What a pixel can be, and its colour: those of the report's pictures of errors."""


@dataclass(frozen=True)
class ErrorMask:
    """A segmentation compared with the annotation, in the pixels of the segmentation.

    ``found``: the segmentation; ``meaning``: class of the model, i + 1, by number of the annotated class, 0 for other
    classes; ``corners``: float64 (n, 2), x and y of the patches that were predicted, and ``span``, their edge, both in
    pixels of the segmentation's finest level; ``everywhere``: whether pixels without annotation are background, and not
    unknown.
    """

    found: Mask
    annotation: Annotation
    meaning: NDArray[np.uint8]
    corners: NDArray[np.float64]
    span: float
    everywhere: bool

    @property
    def classes(self) -> list[str]:
        """Names of the values 1 and more."""
        return list(KINDS)

    def tile(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        """What the pixels of one tile are, uint8 (h, w); 0 where nothing is to be compared. Raises KeyError."""
        found = self.found.tile(level, row, column)
        step = 2**level
        x, y, scale = column * TILE * step, row * TILE * step, self.found.pixel
        labels = rasterise(self.annotation, Level0Pixels(x * scale), Level0Pixels(y * scale), TILE, step * scale)
        true = self.meaning[labels[: found.shape[0], : found.shape[1]]]
        known = self._predicted(*(at + np.arange(n) * step for at, n in zip((y, x), found.shape, strict=True)))
        if not self.everywhere:
            known &= true > 0
        kinds = np.zeros(found.shape, np.uint8)
        kinds[found > 0] = 4
        kinds[(found > 0) & (true == 0)] = 3
        kinds[(found == 0) & (true > 0)] = 2
        kinds[(found > 0) & (found == true)] = 1
        kinds[~known] = 0
        return kinds

    def _predicted(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which pixels are in a predicted patch."""
        inside = np.zeros((rows.size, columns.size), bool)
        x, y = self.corners.T
        near = (x <= columns[-1]) & (x + self.span > columns[0]) & (y <= rows[-1]) & (y + self.span > rows[0])
        for left, top in self.corners[near]:
            across = slice(*np.searchsorted(columns + 0.5, (left, left + self.span)))
            inside[slice(*np.searchsorted(rows + 0.5, (top, top + self.span))), across] = True
        return inside


def named(task: str) -> bool:
    """Whether a layer is one of these."""
    return task.rpartition(".")[2] == ERRORS


def open_layer(layout: Layout, slide: str, task: str, fold: int) -> ErrorMask:
    """The errors of a segmentation task, ``task.errors``. Raises KeyError if it or the annotation is missing."""
    name = task.removesuffix(f".{ERRORS}")
    found, record = masks.open_layer(layout, slide, name, fold), masks.annotation_of(layout, slide)
    if record is None or not record.is_annotated:
        raise KeyError(f"{slide} is not annotated")
    annotation = _annotation(layout.annotation(slide), layout.annotation(slide).stat().st_mtime_ns)
    meaning = np.zeros(len(annotation.class_names) + 1, np.uint8)
    for number, known in enumerate(annotation.class_names, start=1):
        if known in found.classes:
            meaning[number] = found.classes.index(known) + 1
    card = ModelCard.read(layout.description(name, fold))
    path = layout.prediction(name, fold, slide)
    corners, span = _patches(path, layout.table(card.grid.name, slide), path.stat().st_mtime_ns)
    everywhere = card.class_names[0] == BACKGROUND
    return ErrorMask(found, annotation, meaning, corners / found.pixel, span / found.pixel, everywhere)


@lru_cache(maxsize=2)
def _annotation(path: Path, _written: int) -> Annotation:
    """The annotation of a slide. Kept, because every tile needs it."""
    return Annotation.load(path)


@lru_cache(maxsize=4)
def _patches(predicted: Path, table: Path, _written: int) -> tuple[NDArray[np.float64], float]:
    """Corners (n, 2), x and y, and edge of the predicted patches in level-0 pixels. Kept, as every tile needs them."""
    found = pq.read_table(predicted, columns=["x", "y"])
    offset, span = SlideGrid.of_table(read_table(table)[1]).middle
    return np.stack([found["x"].to_numpy(), found["y"].to_numpy()], axis=1) + offset, span


def _layers(layout: Layout, slide: str) -> Iterator[tuple[str, int, ErrorMask]]:
    for path in map(store_of, existing(layout.segmentation("*", "*", slide), under=layout.results)):
        name, fold = f"{path.parent.parent.name}.{ERRORS}", int(path.parent.name.removeprefix("fold"))
        try:
            yield name, fold, open_layer(layout, slide, name, fold)
        except KeyError:  # a slide without an annotated mask
            continue


def describe(layout: Layout, slide: str) -> list[MaskTiles]:
    """What the page needs to request the tiles of the errors of every segmentation of a slide."""
    return [
        masks.tiles_of(layer.found, name, fold, f"errors: {name.removesuffix(f'.{ERRORS}')}, fold {fold}")
        | {
            "classes": layer.classes,
            "colours": [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in KINDS.values()],
        }
        for name, fold, layer in _layers(layout, slide)
    ]
