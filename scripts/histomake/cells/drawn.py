"""Cells that are apart already: outlines of an annotation, and masks in which every cell has a number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely

from histomake.annotation.drawn import AnnotationError
from histomake.annotation.mask import LabelMask, open_mask, parts, scale_of
from histomake.annotation.model import Annotation
from histomake.annotation.overlap import draw_rank
from histomake.annotation.raster import inside
from histomake.annotation.read import naming_slide
from histomake.base.errors import Reason, SlideError
from histomake.base.records.manifest import Manifest
from histomake.base.units import Mpp
from histomake.base.windows import Window
from histomake.cells.parting import TILE_PX
from histomake.cells.segmented import part_classes
from histomake.cells.source import CellSource
from histomake.cells.tile import Tile, numbered
from histomake.config import Cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST_UM = 1000.0
"""Longest edge of the box around a cell. Larger objects are regions, or classes in place of cells."""

COVERED = "covered by smaller cells"
OUTSIDE = "outside the slide"


def from_outlines(annotation: Annotation, manifest: Manifest, config: Cells, *, path: Path) -> CellSource:
    """Return the outlined cells of an annotation, on a grid at ``config.mpp`` or the slide's coarser resolution.

    A pixel belongs to a cell if its centre is inside; where cells overlap, the smaller one is on top.

    Args:
        annotation: Regions of the slide.
        manifest: The slide.
        config: The section ``cells.<name>``.
        path: The file of the annotation, which errors name.

    Raises:
        SlideError: A region is too large to be a cell.
    """
    mpp = max(config.mpp, manifest.mpp)
    scale = mpp / manifest.mpp
    shape = math.ceil(manifest.height / scale - 1e-9), math.ceil(manifest.width / scale - 1e-9)
    chosen = [region for region in annotation.labelled if not config.classes or region[0] in config.classes]
    names = tuple(name for name in annotation.class_names if name in {region[0] for region in chosen})
    geometries = np.array([geometry for _, geometry in chosen], dtype=object)
    classes = np.array([names.index(name) for name, _ in chosen], np.uint8)
    boxes = shapely.bounds(geometries).reshape(-1, 4) / scale
    _require_cells(boxes[:, 2:] - boxes[:, :2], mpp, manifest, path)
    boxes = np.stack([np.floor(boxes[:, 1]), np.floor(boxes[:, 0]), np.ceil(boxes[:, 3]), np.ceil(boxes[:, 2])], axis=1)
    limits = np.array([*shape, *shape])
    boxes = np.clip(boxes, 0, limits).astype(np.int64)
    losses: Counter[str] = Counter()

    def tiles() -> Iterator[Tile]:
        tree, rank = shapely.STRtree(geometries), draw_rank(geometries)
        for window, members in _by_tile(boxes, shape):
            frame = (window.x, window.y, window.x + window.width, window.y + window.height)
            near = tree.query(shapely.box(*(edge * scale for edge in frame)))
            labels = np.zeros((window.height, window.width), np.int32)
            numbers = np.zeros(len(geometries), np.int32)
            numbers[members] = np.arange(1, members.size + 1)
            for i in near[np.argsort(rank[near])]:
                _draw(labels, geometries[i], boxes[i], window, scale, int(numbers[i]))
            kept = np.bincount(labels.ravel(), minlength=members.size + 1)[1:] > 0
            losses[COVERED] += int((~kept).sum())
            if kept.any():
                yield numbered(labels, kept, window, classes[members])

    return CellSource(shape, scale, mpp, names, tiles, losses)


def _draw(
    labels: NDArray[np.int32], cell: shapely.Geometry, box: NDArray[np.int64], window: Window, scale: float, number: int
) -> None:
    """Draw a cell into the labels of a window; one without a pixel centre gets the pixel around its inner point."""
    top, left, bottom, right = box.tolist()
    size = max(bottom - top, right - left, 1)
    mask = inside(cell, left * scale, top * scale, size, scale)[: bottom - top, : right - left]
    if not mask.any():
        point = cell.representative_point()
        y, x = int(point.y / scale) - top, int(point.x / scale) - left
        if not (0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]):
            return
        mask[y, x] = True
    here = Window(top, left, bottom - top, right - left).within(window)
    seen = here.cut_to(labels.shape)
    if seen.height and seen.width:
        labels[seen.slices][mask[seen.within(here).slices]] = number


def from_mask(path: Path, manifest: Manifest, config: Cells) -> CellSource:
    """Return the cells of a mask whose values number them; a mask with one value is parted like a segmentation.

    Raises:
        SlideError: The mask cannot be read, does not fit the slide, has negative values, or an object that is too large
            to be a cell.
    """
    with naming_slide(path, manifest.slide_id):
        mask = open_mask(path)
        downsample = scale_of(mask.shape, width=manifest.width, height=manifest.height)
        mpp = Mpp(manifest.mpp * downsample)
        values, boxes = _boxes(mask)
    if values.size == 1:
        return part_classes(mask, [], scale=downsample, mpp=mpp, config=config)
    _require_cells(boxes[:, 2:] - boxes[:, :2], mpp, manifest, path)

    def tiles() -> Iterator[Tile]:
        for window, members in _by_tile(boxes, mask.shape):
            with naming_slide(path, manifest.slide_id):
                found = mask[window.slices]
            value, start, stop = _runs(found)
            own = values[members]
            position = np.minimum(np.searchsorted(own, value), own.size - 1)
            numbers = np.where(own[position] == value, position + 1, 0).astype(np.int32)
            labels = np.repeat(numbers, stop - start).reshape(found.shape)
            yield Tile(window, labels, int(members.size))

    return CellSource(mask.shape, downsample, mpp, (), tiles)


def _boxes(mask: LabelMask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the values of a mask other than 0, ascending, and top, left, bottom, right (n, 4) of their pixels."""
    found = [np.zeros((0, 5), np.int64)]
    for rows, columns in parts(mask.shape, mask.chunks):
        part = mask[rows, columns]
        if part.min() < 0:
            raise AnnotationError(f"the mask has the negative value {part.min()}", "Use 0 for background")
        value, start, stop = _runs(part)
        y, x = np.divmod(start, part.shape[1])
        top, left = rows.start + y, columns.start + x
        runs = np.stack([value, top, left, top + 1, left + stop - start], axis=1)[value > 0]
        found.append(_united(runs))
    table = _united(np.concatenate(found))
    return table[:, 0], table[:, 1:]


def _runs(part: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.intp]]:
    """Return value, first flat index and flat index past the end of every run of equal values in a row."""
    new = np.ones(part.shape, bool)
    np.not_equal(part[:, 1:], part[:, :-1], out=new[:, 1:])
    start = np.flatnonzero(new)
    return part.ravel()[start].astype(np.int64), start, np.append(start[1:], part.size)


def _united(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Unite rows of value, top, left, bottom, right with the same value; the result is ascending by value."""
    boxes = boxes[np.argsort(boxes[:, 0], kind="stable")]
    starts = np.flatnonzero(np.diff(boxes[:, 0], prepend=-1))
    if not starts.size:
        return boxes
    corners = np.minimum.reduceat(boxes[:, :3], starts), np.maximum.reduceat(boxes[:, 3:], starts)
    return np.concatenate(corners, axis=1)


def _by_tile(boxes: NDArray[np.int64], shape: tuple[int, int]) -> Iterator[tuple[Window, NDArray[np.intp]]]:
    """Yield the objects whose boxes begin in each tile, ascending, with the window of all of their pixels."""
    if not len(boxes):
        return
    tile = boxes[:, 0] // TILE_PX * (shape[1] // TILE_PX + 1) + boxes[:, 1] // TILE_PX
    order = np.argsort(tile, kind="stable")
    bounds = [*np.flatnonzero(np.diff(tile[order], prepend=-1)).tolist(), order.size]
    for start, stop in pairwise(bounds):
        members = order[start:stop]
        (top, left), (bottom, right) = boxes[members, :2].min(0).tolist(), boxes[members, 2:].max(0).tolist()
        yield Window(top, left, bottom - top, right - left), members


def _require_cells(sizes: NDArray[np.floating] | NDArray[np.int64], mpp: Mpp, manifest: Manifest, path: Path) -> None:
    """Raise SlideError if an object of these heights and widths in pixels, (n, 2), is too large to be a cell."""
    longest = float(sizes.max(initial=0)) * mpp
    if longest > LONGEST_UM:
        raise SlideError(
            Reason.BAD_ANNOTATION,
            slide_id=manifest.slide_id,
            path=path,
            detail=f"an annotated object is {longest:.0f} µm long, which is no cell (at most {LONGEST_UM:.0f} µm)",
            remedy="List the classes that are cells under cells.<name>.classes; if values of masks are classes, set "
            "annotations.mask_values: classes",
        )
