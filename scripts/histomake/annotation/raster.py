"""Annotations on a grid: label crops for segmentation and area shares for the patch table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import shapely

from histomake.annotation.coverage import interval_weights, polygon_shares
from histomake.annotation.model import Annotation, LabelImage
from histomake.base.units import Level0Pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

MASK_TILE = 2048  # edge of the parts in which a mask is read, so that memory does not depend on its size


def rasterise(annotation: Annotation, x: Level0Pixels, y: Level0Pixels, size: int, scale: float) -> NDArray[np.uint8]:
    """Rasterise a square of the slide to class numbers: 0 unlabelled, i + 1 ``annotation.class_names[i]``.

    A pixel belongs to a region if its centre is inside. Where regions overlap, the smaller one is drawn on top:
    necrosis drawn inside a tumour stays necrosis, independent of the order in the file. Regions of interest label no
    pixel.

    Args:
        annotation: the slide's annotation.
        x, y: top-left corner, level-0 pixels; may lie outside the slide.
        size: edge of the result in pixels.
        scale: level-0 pixels per pixel of the result.

    Returns:
        uint8 of shape (size, size).
    """
    if annotation.label_image is not None:
        return _sample(annotation.label_image, x, y, size, scale)
    labels = np.zeros((size, size), np.uint8)
    if not annotation.labelled:
        return labels
    frame = shapely.box(x, y, x + size * scale, y + size * scale)
    touched = annotation.index.query(frame)
    for i in touched[np.argsort(annotation.draw_rank[touched])]:
        name, geometry = annotation.labelled[i]
        labels[inside(geometry, x, y, size, scale)] = annotation.class_names.index(name) + 1
    return labels


def inside(geometry: shapely.Geometry, x: float, y: float, size: int, scale: float) -> NDArray[np.bool_]:
    """Return which pixel centres of a square lie in a polygon: even-odd scan-line rule (Foley et al., 1990, ch. 3.6).

    Args:
        geometry: Polygon or MultiPolygon, level-0 pixels.
        x, y, size, scale: as for `rasterise`.

    Returns:
        bool (size, size).
    """
    points, ring = shapely.get_coordinates(shapely.get_rings(shapely.get_parts(geometry)), return_index=True)
    points = (points - [x, y]) / scale - 0.5  # pixel centres now have whole coordinates
    same = ring[1:] == ring[:-1]
    (x0, y0), (x1, y1) = points[:-1][same].T, points[1:][same].T
    top = np.clip(np.ceil(np.minimum(y0, y1)), 0, size).astype(np.int64)
    bottom = np.clip(np.ceil(np.maximum(y0, y1)), 0, size).astype(np.int64)
    count = bottom - top
    edge = np.repeat(np.arange(count.size), count)
    row = np.arange(edge.size) - np.repeat(np.cumsum(count) - count, count) + top[edge]
    crossing = x0[edge] + (row - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    first = np.clip(np.ceil(crossing), 0, size).astype(np.int64)
    toggles = np.bincount(row * (size + 1) + first, minlength=size * (size + 1)).reshape(size, size + 1)
    return (np.cumsum(toggles[:, :size], axis=1) & 1).astype(bool)


def _sample(labels: LabelImage, x: int, y: int, size: int, scale: float) -> NDArray[np.uint8]:
    """Return the label at every pixel centre; pixels outside the raster are unlabelled."""
    centres = (np.arange(size) + 0.5) * scale
    rows = np.floor((y + centres) / labels.downsample).astype(np.int64)
    columns = np.floor((x + centres) / labels.downsample).astype(np.int64)
    height, width = labels.shape
    result = np.zeros((size, size), np.uint8)
    row_ok, column_ok = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    if row_ok.any() and column_ok.any():
        rows, columns = rows[row_ok], columns[column_ok]
        part = labels.read(slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        result[np.ix_(row_ok, column_ok)] = part[np.ix_(rows - rows[0], columns - columns[0])]
    return result


def area_shares(
    annotation: Annotation, class_names: Sequence[str], columns: NDArray, rows: NDArray, span: float
) -> dict[str, NDArray[np.float32]]:
    """Compute the share of every grid cell annotated as each class; columns, rows and span are in level-0 pixels.

    The rule of overlap is that of `rasterise`. Shares of regions of interest are counted besides those of labels.

    Returns float32 of shape (rows, columns) by class name; zeros for a class that the annotation does not contain.
    """
    if annotation.label_image is None:
        areas = annotation.area_by_class
        return {n: polygon_shares(areas.get(n, shapely.Polygon()), columns, rows, span) for n in class_names}
    numbers = {n: annotation.class_names.index(n) + 1 for n in class_names if n in annotation.class_names}
    found = _label_shares(annotation.label_image, set(numbers.values()), columns, rows, span)
    nothing = np.zeros((rows.size, columns.size), np.float32)
    return {name: found[numbers[name]] if name in numbers else nothing for name in class_names}


def _label_shares(
    labels: LabelImage, numbers: set[int], columns: NDArray, rows: NDArray, span: float
) -> dict[int, NDArray[np.float32]]:
    """Compute the share of every cell per class number. The raster is read once, in tiles, only where cells are."""
    height, width = labels.shape
    shares = {number: np.zeros((rows.size, columns.size)) for number in numbers}
    by_row = interval_weights(rows, span, height, labels.downsample).tocsc()
    by_column = interval_weights(columns, span, width, labels.downsample).tocsc()
    for down, across in _tiles(height, width):
        row_weights, column_weights = by_row[:, down], by_column[:, across]
        if row_weights.nnz == 0 or column_weights.nnz == 0:
            continue
        tile = labels.read(down, across)
        for number in numbers & set(np.flatnonzero(np.bincount(tile.ravel())).tolist()):
            shares[number] += (column_weights @ (row_weights @ (tile == number).astype(np.float32)).T).T
    return {number: np.clip(share, 0, 1).astype(np.float32) for number, share in shares.items()}


def _tiles(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, height, MASK_TILE):
        for left in range(0, width, MASK_TILE):
            yield slice(top, min(top + MASK_TILE, height)), slice(left, min(left + MASK_TILE, width))


def labels_at(annotation: Annotation, names: list[str], x: NDArray, y: NDArray) -> NDArray[np.bool_]:
    """Return whether each point (level-0 pixels, shape (n,)) lies in a region of one of the named classes as drawn."""
    if annotation.label_image is not None:
        wanted = [annotation.class_names.index(n) + 1 for n in names if n in annotation.class_names]
        return np.isin(_labels_of_points(annotation.label_image, x, y), wanted)
    region = shapely.union_all([annotation.union_by_class[n] for n in names if n in annotation.union_by_class])
    shapely.prepare(region)
    return shapely.contains_xy(region, x, y)


def _labels_of_points(labels: LabelImage, x: NDArray, y: NDArray) -> NDArray[np.uint8]:
    row = np.floor(y / labels.downsample).astype(np.int64)
    column = np.floor(x / labels.downsample).astype(np.int64)
    found = np.zeros(row.size, np.uint8)
    for down, across in _tiles(*labels.shape):
        here = (row >= down.start) & (row < down.stop) & (column >= across.start) & (column < across.stop)
        if here.any():
            found[here] = labels.read(down, across)[row[here] - down.start, column[here] - across.start]
    return found
