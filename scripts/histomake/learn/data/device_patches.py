"""Patches cut from tiles on a device: which tiles they need, how their pixels are gathered, and resampling.

The geometry is that of `SlideReader.read`: the same level, the same rounding of positions, white outside the slide, and
OpenCV's own weights for resampling.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from histomake.base.units import Level0Pixels, Mpp
from histomake.slide.reader import ReadPlan, SlideReader
from histomake.slide.store import FILL

GATHERED = 1 << 24
"""Pixels that are gathered at a time: their indices take eight bytes each."""

EMPTY = -1
"""Number of a tile that is absent or lies outside the slide, in `Cut.numbers`."""


@dataclass(frozen=True)
class View:
    """Patches of one size and resolution. x, y: corners (n,) in level-0 px; size: edge in px at ``mpp``."""

    x: np.ndarray
    y: np.ndarray
    size: int
    mpp: Mpp


@dataclass(frozen=True)
class Cut:
    """How patches are cut from decoded tiles, all in pixels of the level after its reduction.

    Attributes:
        level: Index of the level in the store.
        reduction: Factor by which decoded tiles are averaged before patches are cut.
        x: Left edges (n,).
        y: Top edges (n,).
        edge: Edge of the squares that are cut.
        size: Edge of the patches; another one than ``edge`` where squares are resampled.
        scale: Factor by which squares are reduced to patches; 1 where they are not resampled.
        end: Bottom and right edge of the level.
        first: Row and column of the tile that ``numbers`` begins with.
        numbers: Number of the decoded tile at each row and column, or EMPTY; the last row and column are.
    """

    level: int
    reduction: int
    x: np.ndarray
    y: np.ndarray
    edge: int
    size: int
    scale: float
    end: tuple[int, int]
    first: tuple[int, int]
    numbers: np.ndarray

    def numbered(self, present: Sequence[bool]) -> Cut:
        """The same with tiles numbered in order of row and column, leaving out those that are not ``present``."""
        numbers = np.full_like(self.numbers, EMPTY)
        slots = np.flatnonzero(self.numbers != EMPTY)[np.asarray(present, bool)]
        numbers.flat[slots] = np.arange(len(slots))
        return Cut(**{**vars(self), "numbers": numbers})

    def tiles(self) -> list[tuple[int, int]]:
        """Row and column of the tiles that are needed, in order."""
        rows, columns = np.nonzero(self.numbers != EMPTY)
        return list(zip((rows + self.first[0]).tolist(), (columns + self.first[1]).tolist(), strict=True))


def plan_cut(reader: SlideReader, view: View) -> Cut:
    """Plan how the patches of a view are cut, with every tile that they touch marked as needed."""
    plan: ReadPlan = reader.plan(view.mpp)
    level = reader.levels[plan.level]
    regions = [
        plan.region(Level0Pixels(x), Level0Pixels(y), view.size, view.size)
        for x, y in zip(view.x.tolist(), view.y.tolist(), strict=True)
    ]
    height, width = regions[0].tile_size(level)
    right, bottom = level.width // plan.reduction, level.height // plan.reduction
    x, y = (np.array([getattr(region, axis) for region in regions], np.int64) for axis in "xy")
    edge = regions[0].width
    first = int(y.min()) // height, int(x.min()) // width
    rows, columns = (
        (int(y.max()) + edge - 1) // height + 1 - first[0],
        (int(x.max()) + edge - 1) // width + 1 - first[1],
    )
    numbers = np.full((rows + 1, columns + 1), EMPTY, np.int32)
    for region in regions:
        for run in region.runs(level):
            numbers[run.row - first[0], run.first - first[1] : run.end - first[1]] = 0
    scale = 1.0 if plan.unscaled else plan.scale
    return Cut(plan.level, plan.reduction, x, y, edge, view.size, scale, (bottom, right), first, numbers)


def cut_patches(tiles: Tensor, cut: Cut) -> Tensor:
    """Patches uint8 (n, size, size, 3) from decoded and reduced tiles (t, 3, h, w), on their device."""
    height, width = tiles.shape[2:]
    white = tiles.new_full((1, 3, height, width), FILL)
    pixels = torch.cat([tiles, white]).permute(0, 2, 3, 1).reshape(-1, 3)
    count = max(1, GATHERED // cut.edge**2)
    out = tiles.new_empty((len(cut.x), cut.size, cut.size, 3))
    for first in range(0, len(cut.x), count):
        some = slice(first, first + count)
        squares = pixels.index_select(0, _indices(cut, some, (height, width), tiles.device).view(-1))
        squares = squares.view(-1, cut.edge, cut.edge, 3)
        out[some] = squares if cut.scale == 1 else _resampled(squares, cut.size, cut.scale)
    return out


def _indices(cut: Cut, some: slice, tile: tuple[int, int], device: torch.device) -> Tensor:
    """Position of each pixel of some squares, int64 (n, edge, edge), among the pixels of all tiles."""
    numbers = torch.from_numpy(np.where(cut.numbers == EMPTY, cut.numbers.max() + 1, cut.numbers)).to(device).long()
    along = torch.arange(cut.edge, device=device)
    places = []
    for starts, length, end, first, last in zip(
        (cut.y, cut.x), tile, cut.end, cut.first, (s - 1 for s in cut.numbers.shape), strict=True
    ):
        place = torch.from_numpy(starts[some]).to(device)[:, None] + along
        # What is outside the level belongs to the last row or column of the numbers, which is white.
        number = torch.where(place < end, place.div(length, rounding_mode="floor") - first, last)
        places.append((number, place.remainder(length)))
    (row, down), (column, across) = places
    tiles = numbers[row[:, :, None], column[:, None, :]]
    return tiles * (tile[0] * tile[1]) + (down * tile[1])[:, :, None] + across[:, None, :]


def _resampled(squares: Tensor, size: int, scale: float) -> Tensor:
    """Squares (n, edge, edge, 3) reduced by ``scale`` to (n, size, size, 3), rounded to uint8."""
    weights = _weights(squares.shape[1], size, scale, squares.device)
    along_x = torch.einsum("pw,nhwc->nhpc", weights, squares.float())
    return torch.einsum("oh,nhpc->nopc", weights, along_x).round_().clamp_(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=16)
def _weights(edge: int, size: int, scale: float, device: torch.device) -> Tensor:
    """Weights (size, edge) by which OpenCV resamples one axis; missing pixels at the end repeat the last."""
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    weights = cv2.resize(np.eye(edge, dtype=np.float32), None, fx=1, fy=1 / scale, interpolation=method)
    rows = np.minimum(np.arange(size), len(weights) - 1)
    return torch.from_numpy(weights[rows]).to(device)
