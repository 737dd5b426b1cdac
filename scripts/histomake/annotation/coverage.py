"""Exact areas: the share of each grid cell that is covered by polygons or by each value of a raster.

A grid is the product of column intervals and row intervals, which may overlap, leave gaps, or end between pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def polygon_shares(geometry: shapely.Geometry, columns: NDArray, rows: NDArray, span: float) -> NDArray[np.float32]:
    """Compute the share of each grid cell inside a valid (multi)polygon, exact up to floating point.

    The plane is cut at every start and end of an interval. The areas of the resulting small cells follow from Green's
    theorem and are summed into grid cells, so overlapping grid cells need no second pass over the geometry.
    Args:
        geometry: a valid Polygon or MultiPolygon, possibly empty; level-0 pixels.
        columns, rows: starts of the intervals, ascending; level-0 pixels.
        span: length of every interval; level-0 pixels.

    Returns:
        float32 of shape (rows, columns), 0 to 1.
    """
    if columns.size == 0 or rows.size == 0 or shapely.is_empty(geometry):
        return np.zeros((rows.size, columns.size), np.float32)
    x_cuts, x_first, x_last = _cuts(columns, span)
    y_cuts, y_first, y_last = _cuts(rows, span)
    areas = _areas_between_cuts(geometry, x_cuts, y_cuts)
    integral = np.zeros((y_cuts.size, x_cuts.size))
    np.cumsum(np.cumsum(areas, axis=0), axis=1, out=integral[1:, 1:])
    lower, upper = integral[y_last], integral[y_first]
    covered = lower[:, x_last] - lower[:, x_first] - upper[:, x_last] + upper[:, x_first]
    return np.clip(covered / span**2, 0, 1).astype(np.float32)


def _cuts(starts: NDArray, span: float) -> tuple[Floats, NDArray[np.intp], NDArray[np.intp]]:
    """Return all starts and ends, ascending, and the index of each interval's start and end among them."""
    cuts, places = np.unique(np.concatenate([starts, starts + span]), return_inverse=True)
    return cuts, places[: starts.size], places[starts.size :]


def _areas_between_cuts(geometry: shapely.Geometry, x_cuts: Floats, y_cuts: Floats) -> Floats:
    """Compute the area of the geometry in each rectangle between adjacent cuts, shape (len(y_cuts)-1, len(x_cuts)-1).

    Every piece of an edge with height dy covers dy times the distance to its right, signed by its direction: the
    remaining part of its own rectangle and the whole of every rectangle further right. The sum around closed rings is
    the area.
    """
    height, width = y_cuts.size - 1, x_cuts.size - 1
    x0, y0, x1, y1 = _split_at(y_cuts, *_edges(geometry)[[1, 0, 3, 2]])[[1, 0, 3, 2]]
    row = np.searchsorted(y_cuts, (y0 + y1) / 2, side="right") - 1
    inside = (row >= 0) & (row < height) & (y0 != y1)
    x0, y0, x1, y1 = _split_at(x_cuts, x0[inside], y0[inside], x1[inside], y1[inside])
    # Pieces left of the grid count in full from its first column on; pieces right of the grid count zero.
    x0, x1 = np.clip([x0, x1], x_cuts[0], x_cuts[-1])
    row = np.searchsorted(y_cuts, (y0 + y1) / 2, side="right") - 1
    column = np.clip(np.searchsorted(x_cuts, (x0 + x1) / 2, side="right") - 1, 0, width - 1)
    dy = y1 - y0
    own = dy * (x_cuts[column + 1] - (x0 + x1) / 2)
    cell = row * width + column
    partial = np.bincount(cell, own, height * width).reshape(height, width)
    crossing = np.bincount(cell, dy, height * width).reshape(height, width)
    further = np.cumsum(crossing, axis=1) - crossing
    return partial + further * np.diff(x_cuts)


def _edges(geometry: shapely.Geometry) -> Floats:
    """Return the edges of all rings as rows x0, y0, x1, y1, oriented so that areas to their right sum up positive."""
    rings = shapely.get_rings(shapely.orient_polygons(shapely.get_parts(geometry), exterior_cw=True))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    return np.concatenate([points[:-1][same].T, points[1:][same].T])


def _split_at(cuts: Floats, u0: Floats, v0: Floats, u1: Floats, v1: Floats) -> Floats:
    """Split segments where their u crosses a cut; return u0, v0, u1, v1 of the pieces in the original direction."""
    low = np.searchsorted(cuts, np.minimum(u0, u1), side="right")
    high = np.searchsorted(cuts, np.maximum(u0, u1), side="left")
    count = np.maximum(high - low, 0)
    pieces = count + 1
    source = np.repeat(np.arange(u0.size), pieces)
    # The k-th piece of a segment ends at its k-th crossing in the direction of the segment.
    k = np.arange(source.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    rising = (u1 >= u0)[source]
    crossing = np.where(rising, low[source] + k, high[source] - 1 - k)
    is_last = k == count[source]
    end_u = np.where(is_last, u1[source], cuts[np.clip(crossing, 0, cuts.size - 1)])
    du = u1 - u0
    slope = np.divide(v1 - v0, du, out=np.zeros_like(du), where=du != 0)
    end_v = np.where(is_last, v1[source], v0[source] + (end_u - u0[source]) * slope[source])
    is_first = k == 0
    start_u = np.where(is_first, u0[source], np.roll(end_u, 1))
    start_v = np.where(is_first, v0[source], np.roll(end_v, 1))
    return np.stack([start_u, start_v, end_u, end_v])


def interval_weights(starts: NDArray, span: float, pixels: int, downsample: float) -> sparse.csr_array:
    """Compute the overlap of intervals with the pixels of a raster axis as a sparse matrix (intervals, pixels).

    Entry (i, p) is the share of interval i (level-0 pixels) covered by pixel p, which spans
    ``[p * downsample, (p + 1) * downsample)``. A row sums to 1 if the interval lies completely on the raster.
    """
    low = np.asarray(starts, np.float64) / downsample
    high = low + span / downsample
    first = np.clip(np.floor(low), 0, pixels).astype(np.int64)
    last = np.clip(np.ceil(high), 0, pixels).astype(np.int64)
    count = last - first
    indptr = np.concatenate([[0], np.cumsum(count)])
    owner = np.repeat(np.arange(first.size), count)
    pixel = np.arange(indptr[-1]) - indptr[:-1][owner] + first[owner]
    overlap = np.minimum(high[owner], pixel + 1) - np.maximum(low[owner], pixel)
    return sparse.csr_array((np.maximum(overlap, 0) * downsample / span, pixel, indptr), shape=(first.size, pixels))


def mask_shares(
    mask: NDArray, columns: NDArray, rows: NDArray, span: float, *, downsample_x: float, downsample_y: float
) -> NDArray[np.float32]:
    """Compute the share of each grid cell where ``mask`` (bool, shape (h, w)) is true, exact for partial pixels.

    Pixels outside the raster count as false. Returns float32 of shape (rows, columns).
    """
    by_row = interval_weights(rows, span, mask.shape[0], downsample_y)
    by_column = interval_weights(columns, span, mask.shape[1], downsample_x)
    return np.clip((by_column @ (by_row @ mask.astype(np.float64)).T).T, 0, 1).astype(np.float32)
