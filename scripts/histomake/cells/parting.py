"""Parting of objects that touch, by watershed, on a grid of any size.

Objects are found window by window. A connected piece of the mask that lies wholly in a window is parted exactly as on
the whole grid, because every step depends on the piece alone; one that reaches beyond is seen again in a wider window.
An object belongs to the tile that contains the first pixel of its marker, so each is found once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from histomake.base.windows import Window, tiled
from histomake.cells.tile import Tile, numbered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Labels = NDArray[np.int32]

Pixels = Callable[[Window], "NDArray[np.bool_]"]
"""Function that returns the mask in any window of a grid."""

TILE_PX = 2048
MARGINS_PX = (64, 512)
"""Pixels around a tile that are read; the wider margin only for pieces that reach beyond the first. A piece that
reaches beyond the last is parted as far as it is seen: no flood from farther away can reach the objects of the tile."""

STEPS = 8
"""Distances are rounded to this part of a pixel, so that depths are compared exactly."""

UNDIVIDED = 1e6
"""A depth, in pixels, that no neck has."""

TOUCHING = np.ones((3, 3), bool)
"""Pixels of a piece touch by edges or corners."""


def part(mask: NDArray[np.bool_], depth: float) -> tuple[Labels, NDArray[np.intp]]:
    """Part the pieces of a mask at their necks.

    Markers are the tops of the distance to the background, its highest ``depth`` pixels, that are separate from any
    higher top (extended maxima, Soille 2003, chapter 6.3.5); a piece without such a top is one object. The watershed of
    the negative distance then divides each piece among its markers. Beyond the edges of the array nothing is known, so
    it counts as neither.

    Args:
        mask: (h, w).
        depth: How much narrower, in pixels of radius, a neck must be than the objects on both sides.

    Returns:
        Numbers of objects int32 (h, w), 0 for background, and (n,) the flat index of the first pixel of the marker of
        object i + 1.
    """
    pieces, count = ndimage.label(mask, TOUCHING)
    if not count:
        return pieces, np.zeros(0, np.intp)
    height = np.rint(ndimage.distance_transform_edt(mask) * STEPS).astype(np.int32)
    if mask.all():  # without background there is no distance
        height[:] = STEPS
    step = max(1, round(depth * STEPS))
    lowered = reconstruction(np.maximum(height - step, 0), height, footprint=TOUCHING)
    summits = local_maxima(lowered, footprint=TOUCHING) & (lowered > 0)
    marked = np.zeros(count + 1, bool)
    marked[pieces[summits]] = True
    marked[0] = True
    markers, number = ndimage.label(summits | ~marked[pieces], TOUCHING)
    places = np.flatnonzero(markers)
    # Among equal values the queue of the watershed is ordered by time of entry, which markers of equal value lack: in
    # order of their pixels, the result for a piece does not depend on other pieces.
    terrain = -height.astype(np.float64)
    terrain.ravel()[places] = terrain.min() - 1 - places.size + np.arange(places.size)
    labels = watershed(terrain, markers, connectivity=TOUCHING, mask=mask)
    peaks = np.zeros(number + 1, np.intp)
    peaks[markers.ravel()[places[::-1]]] = places[::-1]  # of repeated indices the last is kept: the first pixel
    return np.asarray(labels, np.int32), peaks[1:]


def depth_px(neck_um: float | None, mpp: float) -> float:
    """Return the depth for `part` in pixels; None stands for a depth that no neck has."""
    return UNDIVIDED if neck_um is None else neck_um / mpp


def part_array(mask: NDArray[np.bool_], depth: float) -> Labels:
    """Return the numbers of the objects of a whole mask in memory, int32 (h, w), as `parted` finds them."""
    labels, before = np.zeros(mask.shape, np.int32), 0
    for tile in parted(lambda window: mask[window.slices], mask.shape, depth=depth):
        np.copyto(labels[tile.window.slices], tile.labels + before, where=tile.labels > 0)
        before += tile.count
    return labels


def parted(
    pixels: Pixels,
    shape: tuple[int, int],
    *,
    depth: float,
    least: int = 1,
    tile: int = TILE_PX,
    margins: tuple[int, ...] = MARGINS_PX,
) -> Iterator[Tile]:
    """Yield the objects of a mask of any size, each once, tile by tile.

    Args:
        pixels: The mask in any window of the grid.
        shape: Height and width of the grid.
        depth: See `part`, in pixels.
        least: Objects of fewer pixels are left out.
        tile: Edge of the tiles. It does not change the objects.
        margins: Pixels around a tile that are read, ascending.
    """
    for core in tiled(shape, tile):
        left: NDArray[np.bool_] | None = None
        for margin in margins:
            window = core.grown(margin, margin).cut_to(shape)
            mask = pixels(window)
            inner = core.within(window).slices
            wanted = mask[inner] if left is None else left
            if not wanted.any():
                break
            pieces, _ = ndimage.label(mask, TOUCHING)
            chosen = np.zeros(int(pieces.max()) + 1, bool)
            chosen[pieces[inner][wanted]] = True
            chosen[0] = False
            beyond = np.zeros_like(chosen)
            if margin != margins[-1]:
                beyond[_at_open_edges(pieces, window, shape)] = True
            labels, peaks = part((chosen & ~beyond)[pieces], depth)
            yield _owned(labels, peaks, window, core, least)
            left = (chosen & beyond)[pieces[inner]]


def _at_open_edges(pieces: Labels, window: Window, shape: tuple[int, int]) -> Labels:
    """Return the numbers at the edges of a window beyond which the grid continues."""
    sides = []
    if window.y:
        sides.append(pieces[0])
    if window.x:
        sides.append(pieces[:, 0])
    if window.y + window.height < shape[0]:
        sides.append(pieces[-1])
    if window.x + window.width < shape[1]:
        sides.append(pieces[:, -1])
    return np.concatenate(sides) if sides else np.zeros(0, np.int32)


def _owned(labels: Labels, peaks: NDArray[np.intp], window: Window, core: Window, least: int) -> Tile:
    """Keep the objects of at least ``least`` pixels whose markers begin in ``core``, numbered in their order."""
    y, x = np.divmod(peaks, window.width)
    top, left, height, width = core.within(window)
    kept = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
    kept &= np.bincount(labels.ravel(), minlength=peaks.size + 1)[1:] >= least
    return numbered(labels, kept, window)
