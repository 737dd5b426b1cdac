"""Ground truth of nuclei on the grid of level 1."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import shapely

from histomake.annotation.formats import is_mask
from histomake.annotation.mask import open_mask, parts, scale_of
from histomake.annotation.read import naming_slide, read_annotation
from histomake.base.records.manifest import Manifest
from histomake.base.windows import Window
from histomake.cascade.levels import Level
from histomake.config import Annotations

if TYPE_CHECKING:
    from numpy.typing import NDArray


class MaskFile:
    """A label mask in a file. A forked process opens the file again, because processes must not share its position."""

    def __init__(self, path: Path) -> None:
        self.path, self._values, self._process = path, open_mask(path), os.getpid()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self._values.shape
        return height, width

    @property
    def chunks(self) -> tuple[int, int]:
        """Rows and columns that are stored together."""
        return self._values.chunks

    def __getitem__(self, index: Any) -> NDArray[np.integer]:
        """Read a part of the mask."""
        if self._process != os.getpid():
            self._values, self._process = open_mask(self.path), os.getpid()
        return np.asarray(self._values[index])


@dataclass(frozen=True)
class MaskNuclei:
    """Nuclei from a mask: every non-zero value is a nucleus; in a mask with one value, connected components are."""

    values: MaskFile | NDArray[np.integer]
    downsample: float
    binary: bool

    def labels(self, level: Level, scale: float, window: Window) -> NDArray[np.int32]:
        """Return nucleus numbers of a window of level 1; 0 is background."""
        out = np.zeros((window.height, window.width), np.int32)
        rows, columns = (
            ((np.arange(start, start + length) + 0.5) * scale / self.downsample).astype(int)
            for start, length in ((window.y, window.height), (window.x, window.width))
        )
        inside_y = (rows >= 0) & (rows < self.values.shape[0]) & (np.arange(window.height) + window.y >= 0)
        inside_x = (columns >= 0) & (columns < self.values.shape[1]) & (np.arange(window.width) + window.x >= 0)
        if not (inside_y.any() and inside_x.any()):
            return out
        rows, columns = rows[inside_y], columns[inside_x]
        part = np.asarray(self.values[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]).astype(np.int32)
        out[np.ix_(inside_y, inside_x)] = part[np.ix_(rows - rows[0], columns - columns[0])]
        if self.binary:
            out = np.asarray(cv2.connectedComponents((out > 0).astype(np.uint8))[1], np.int32)
        return out


@dataclass(frozen=True)
class DrawnNuclei:
    """Nuclei from polygons in level-0 pixels; where two overlap, the smaller one is on top."""

    polygons: list[shapely.Polygon]

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.polygons)

    def labels(self, level: Level, scale: float, window: Window) -> NDArray[np.int32]:
        """Return nucleus numbers of a window of level 1; 0 is background."""
        out = np.zeros((window.height, window.width), np.int32)
        x, y = window.x * scale, window.y * scale
        box = shapely.box(x, y, x + window.width * scale, y + window.height * scale)
        found = self._tree.query(box, predicate="intersects")
        for i in sorted(found.tolist(), key=lambda i: -self.polygons[i].area):
            rows, columns = _reach(self.polygons[i], window, scale)
            centre_x, centre_y = np.meshgrid(
                (np.arange(columns.start, columns.stop) + window.x + 0.5) * scale,
                (np.arange(rows.start, rows.stop) + window.y + 0.5) * scale,
            )
            out[rows, columns][shapely.contains_xy(self.polygons[i], centre_x, centre_y)] = i + 1
        return out


def _reach(polygon: shapely.Polygon, window: Window, scale: float) -> tuple[slice, slice]:
    """Return the part of a window that overlaps a polygon's bounding box."""
    x0, y0, x1, y1 = (v / scale for v in polygon.bounds)
    rows = slice(max(0, int(y0) - window.y), max(0, min(window.height, int(y1) + 1 - window.y)))
    columns = slice(max(0, int(x0) - window.x), max(0, min(window.width, int(x1) + 1 - window.x)))
    return rows, columns


@dataclass(frozen=True)
class Truth:
    """Annotated nuclei of one slide, on the grid of level 1."""

    nuclei: MaskNuclei | DrawnNuclei
    level: Level
    scale: float
    """Level-0 pixels per level-1 pixel."""

    def labels(self, window: Window) -> NDArray[np.int32]:
        """Return nucleus numbers, int32 (height, width); 0 is background, also beyond the slide."""
        return self.nuclei.labels(self.level, self.scale, window)

    def whole(self) -> NDArray[np.int32]:
        """Return nucleus numbers of the whole slide."""
        return self.labels(Window(0, 0, self.level.height, self.level.width))

    def coverage(self, level: Level, window: Window) -> NDArray[np.float32]:
        """Return the share of each pixel of a level's window that is nucleus (the paper's averaging box)."""
        factor = level.mpp / self.level.mpp
        if factor == 1:
            return (self.labels(window) > 0).astype(np.float32)
        y, x = round(window.y * factor), round(window.x * factor)
        size = round(window.height * factor), round(window.width * factor)
        mask = (self.labels(Window(y, x, *size)) > 0).astype(np.float32)
        return np.asarray(cv2.resize(mask, (window.width, window.height), interpolation=cv2.INTER_AREA), np.float32)


def open_truth(
    path: Path | str, annotations: Annotations, objects: list[str], *, slide_id: str, level: Level, manifest: Manifest
) -> Truth:
    """Read the nuclei of a slide from a label mask or any supported annotation format.

    Args:
        path: The annotation file.
        annotations: The ``annotations`` section of the configuration.
        objects: Annotation classes that are nuclei; empty for all.
        slide_id: Identifier of the slide.
        level: Level 1 of the slide.
        manifest: Manifest of the slide.

    Raises:
        SlideError: The annotation cannot be read or does not match the slide.
    """
    path, width, height = Path(path), manifest.width, manifest.height
    scale = level.mpp / manifest.mpp
    if not is_mask(path):
        read = read_annotation(
            path,
            annotations,
            slide_id=slide_id,
            width=width,
            height=height,
            mpp=manifest.mpp,
            properties=manifest.properties,
        )
        parts = [shapely.get_parts(g) for name, g in read.regions if not objects or name in objects]
        polygons = [p for p in (np.concatenate(parts).tolist() if parts else []) if p.geom_type == "Polygon"]
        return Truth(DrawnNuclei(polygons), level, scale)
    with naming_slide(path, slide_id):
        values = MaskFile(path)
        downsample = scale_of(values.shape, width=width, height=height)
        return Truth(MaskNuclei(values, downsample, binary=_binary(values)), level, scale)


def _binary(values: MaskFile) -> bool:
    """Return whether a mask has a single non-zero value. All of it is read, so that damage is found before training."""
    values_of_parts = (np.unique(values[part]) for part in parts(values.shape, values.chunks))
    seen = reduce(np.union1d, values_of_parts, np.zeros(1, np.int64))
    return seen.size <= 2
