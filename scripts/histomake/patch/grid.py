"""Owns the maths of a patch grid: which cells a slide has and where they lie. Pure: numbers in, numbers out.

A grid is stated at its own mpp (size and stride in patch pixels); cells are placed in level-0 pixels. Cell ``i`` of an
axis starts at ``floor(i * stride * mpp / mpp0 + 0.5)``, so rounding never accumulates: at any distance from the
origin a cell is at most half a level-0 pixel from its exact place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histomake.base.units import Level0Pixels, Mpp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.config import Grid


def span(grid: Grid, mpp0: Mpp | float) -> float:
    """Edge of a patch in level-0 pixels; a float, because magnifications rarely divide evenly."""
    return grid.size * grid.mpp / mpp0


def middle(grid: Grid, mpp0: Mpp | float) -> tuple[float, float]:
    """The part of a patch that a picture may colour: how far its corner lies from the patch's, and its edge.

    Both in level-0 pixels. Where patches overlap, it is the square around the middle that no other patch has, so that
    no colour lies over another nor beside the tissue it was found in; else the whole patch.
    """
    edge = span(grid, mpp0)
    own = min(edge, (grid.stride or grid.size) * grid.mpp / mpp0)
    return (edge - own) / 2, own


def starts(length: Level0Pixels | int, mpp0: Mpp | float, grid: Grid) -> NDArray[np.int32]:
    """Starts of the cells along one axis of ``length`` level-0 pixels: every start that lies inside the slide."""
    step = (grid.stride or grid.size) * grid.mpp / mpp0
    # One more than can fit, because rounding may pull a start back over the edge; those outside are cut off.
    candidates = np.floor(np.arange(int(length / step) + 2) * step + 0.5)
    # A step below one level-0 pixel would place several cells on one pixel; unique keeps the first of each.
    return np.unique(candidates[candidates < length]).astype(np.int32)


def axes(
    width: Level0Pixels | int, height: Level0Pixels | int, mpp0: Mpp | float, grid: Grid
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Starts of the grid's columns and rows, int32 level-0 pixels, ascending."""
    return starts(width, mpp0, grid), starts(height, mpp0, grid)


def cells(
    width: Level0Pixels | int, height: Level0Pixels | int, mpp0: Mpp | float, grid: Grid
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Top-left corners of all cells, sorted by y then x.

    Cells over the right or lower edge are included whatever ``grid.border`` says: the patch table marks them.

    Returns:
        x and y, each int32 of shape (n,), in level-0 pixels.
    """
    columns, rows = axes(width, height, mpp0, grid)
    return np.tile(columns, rows.size), np.repeat(rows, columns.size)


def over_edge(
    starts_px: NDArray[np.int32], length: Level0Pixels | int, mpp0: Mpp | float, grid: Grid
) -> NDArray[np.bool_]:
    """Which cells of an axis reach past the slide by at least half a level-0 pixel (less is rounding, not overlap)."""
    return starts_px + span(grid, mpp0) >= length + 0.5
