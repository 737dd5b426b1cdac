"""Annotated outlines in the viewer, drawn as tiles, so that 100,000 cells cost only what is visible."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import cv2
import numpy as np
import shapely

from histomake.annotation.model import Annotation
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.viewer.masks import TILE, MaskTiles, annotation_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

FINER = 4
"""Pixels of the finest level per level-0 pixel: the highest zoom of the page, so that lines stay thin there."""
LINE_PX = 4
"""Line width in pixels. It is even, so that half of a line lies on each side of the border between two pixels."""
DOT_PX = 2
"""Smaller outlines are drawn as a dot of this size, in pixels."""


@dataclass(frozen=True)
class Outlines:
    """The concatenated rings of all regions of a slide, in level-0 pixels.

    points: float64 (n, 2); starts: int64 (r + 1,), where each ring begins; boxes: float64 (r, 4), its left, top, right
    and bottom; numbers: uint8 (r,), 1 + the place of its class in ``classes``; width, height: of the slide.
    """

    points: NDArray[np.float64]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float64]
    numbers: NDArray[np.uint8]
    classes: list[str]
    width: int
    height: int

    @property
    def count(self) -> int:
        """Levels that are served, finest first, each half the size of the previous; the last one fits into one tile."""
        return levels(self.width, self.height)

    def tile(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        """Class numbers of the outlines in a tile, 0 elsewhere. Raises KeyError for a tile that does not exist."""
        scale = FINER / 2**level
        rows, columns = (math.ceil(length * scale / TILE) for length in (self.height, self.width))
        if not (0 <= level < self.count and 0 <= row < rows and 0 <= column < columns):
            raise KeyError((level, row, column))
        corner = np.array([column, row]) * TILE / scale
        margin, span = LINE_PX / scale, TILE / scale
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        near = np.flatnonzero(((low <= corner + span + margin) & (high >= corner - margin)).all(axis=1))
        tiny = (high[near] - low[near]).max(axis=1) * scale < DOT_PX if len(near) else np.zeros(0, bool)
        canvas = self._lines(near[~tiny], corner, scale)
        self._dots(canvas, near[tiny], corner, scale)
        edges = ((self.height, row), (self.width, column))
        height, width = (min(TILE, math.ceil(length * scale) - i * TILE) for length, i in edges)
        return canvas[:height, :width]

    def _dots(self, canvas: NDArray[np.uint8], rings: NDArray, corner: NDArray, scale: float) -> None:
        middle = (self.boxes[rings, :2] + self.boxes[rings, 2:]) / 2
        x, y = np.clip((middle - corner) * scale, 0, TILE - DOT_PX).astype(int).T
        for dx in range(DOT_PX):
            for dy in range(DOT_PX):
                canvas[y + dy, x + dx] = self.numbers[rings]

    def _lines(self, rings: NDArray, corner: NDArray, scale: float) -> NDArray[np.uint8]:
        """Draw lines of one pixel and dilate them: OpenCV's thick lines are thicker than requested."""
        half = LINE_PX // 2
        canvas = np.zeros((TILE + LINE_PX, TILE + LINE_PX), np.uint8)
        for ring in rings:
            points = (self.points[self.starts[ring] : self.starts[ring + 1]] - corner) * scale
            cv2.polylines(canvas, [np.rint(points).astype(np.int32) + half], True, int(self.numbers[ring]))
        wide = cv2.dilate(canvas, np.ones((LINE_PX, LINE_PX), np.uint8), anchor=(half - 1, half - 1))
        return np.ascontiguousarray(wide[half : half + TILE, half : half + TILE])


def levels(width: int, height: int) -> int:
    """Levels from FINER pixels per level-0 pixel down to a single tile."""
    return 1 + max(0, math.ceil(math.log2(max(width, height) * FINER / TILE)))


class OutlineTiles(TypedDict):
    """What the page needs to request tiles: pixels of the finest level, edge of a tile, and number of levels."""

    width: int
    height: int
    tile: int
    levels: int


def titled(task: str, fold: int, title: str, *, classes: list[str], width: int, height: int) -> MaskTiles:
    """What the page needs to request the tiles of a layer with a title; ``width``, ``height``: of the slide."""
    return MaskTiles(
        task=task,
        fold=fold,
        title=title,
        classes=classes,
        width=width * FINER,
        height=height * FINER,
        tile=TILE,
        levels=levels(width, height),
        pixel=1 / FINER,
    )


def describe(layout: Layout, slide: str, manifest: Manifest) -> OutlineTiles | None:
    """What the page needs to request tiles; None if the slide has no outlines."""
    annotation = annotation_of(layout, slide)
    if annotation is None or not any(annotation.regions.values()):
        return None
    width, height = manifest.width, manifest.height
    return {"width": width * FINER, "height": height * FINER, "tile": TILE, "levels": levels(width, height)}


def open_outlines(layout: Layout, slide: str) -> Outlines:
    """Read the outlines of a slide, which takes seconds for 100,000 cells. Raises KeyError if there are none."""
    manifest = Manifest.read_usable(layout.manifest(slide))
    if describe(layout, slide, manifest) is None:
        raise KeyError(f"{slide} has no annotated outlines")
    return outlines_of(layout.annotation(slide), manifest.width, manifest.height)


def outlines_of(record: Path, width: int, height: int) -> Outlines:
    """Read the outlines of the annotation with a record, on a slide of this size."""
    annotation = Annotation.load(record)
    names = list(annotation.class_names)
    number = np.array([names.index(name) + 1 for name, _ in annotation.regions], np.uint8)
    polygons, region = shapely.get_parts([g for _, g in annotation.regions], return_index=True)
    rings, polygon = shapely.get_rings(polygons, return_index=True)
    points = shapely.get_coordinates(rings)
    starts = np.concatenate([[0], np.cumsum(shapely.get_num_coordinates(rings))])
    numbers = number[region[polygon]]
    return Outlines(points, starts, shapely.bounds(rings), numbers, names, width, height)
