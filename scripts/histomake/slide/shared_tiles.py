"""Decoded tiles that several patches have in common, each decoded once and kept until the last patch has used it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from histomake.slide.store import StoreLevel

TileKey = tuple[int, int, int, int]
"""Index of the level, reduction by the decoder, row and column of a tile."""


@dataclass(frozen=True)
class TileRun:
    """Tiles of one row, columns ``first`` to ``end`` - 1, whose upper ``rows`` pixel rows are needed."""

    row: int
    first: int
    end: int
    rows: int


@dataclass(frozen=True)
class Region:
    """Pixels of a level reduced ``reduction``-fold by its decoder; x, y and sizes are in reduced pixels."""

    index: int
    reduction: int
    x: int
    y: int
    width: int
    height: int

    def tile_size(self, level: StoreLevel) -> tuple[int, int]:
        """Return height and width of the level's tiles in reduced pixels."""
        return level.tile_height // self.reduction, level.tile_width // self.reduction

    def end(self, level: StoreLevel) -> tuple[int, int]:
        """Return the right and the lower edge of the part inside the level."""
        right = min(self.x + self.width, level.width // self.reduction)
        return right, min(self.y + self.height, level.height // self.reduction)

    def runs(self, level: StoreLevel) -> Iterator[TileRun]:
        """Yield the tiles that the region touches, row by row."""
        th, tw = self.tile_size(level)
        right, bottom = self.end(level)
        if right <= max(self.x, 0) or bottom <= max(self.y, 0):
            return
        for row in range(max(self.y, 0) // th, -(-bottom // th)):
            yield TileRun(row, max(self.x, 0) // tw, -(-right // tw), min(bottom - row * th, th))

    def key(self, row: int, column: int) -> TileKey:
        """Return the key of a tile of this level and reduction."""
        return self.index, self.reduction, row, column


class SharedTiles:
    """Tiles of the regions that are announced, then read once each.

    A tile is decoded as far down as any of the regions needs. It is dropped after its last use, so with regions sorted
    by place few are kept at a time. An object belongs to one thread.
    """

    def __init__(self) -> None:
        self._uses: dict[TileKey, int] = {}
        self._rows: dict[TileKey, int] = {}
        self._kept: dict[TileKey, np.ndarray | None] = {}

    def announce(self, region: Region, level: StoreLevel) -> None:
        """State that ``region`` will be read once."""
        for run in region.runs(level):
            for column in range(run.first, run.end):
                key = region.key(run.row, column)
                self._uses[key] = self._uses.get(key, 0) + 1
                self._rows[key] = max(self._rows.get(key, 0), run.rows)

    def __contains__(self, key: TileKey) -> bool:
        return key in self._kept

    def rows(self, key: TileKey, own: int) -> int:
        """Return how many rows of a tile any region needs; ``own`` is the number that the one being read needs."""
        return max(own, self._rows.get(key, 0))

    def put(self, key: TileKey, tile: np.ndarray | None) -> np.ndarray | None:
        """Return ``tile``, decoded for its first use, and keep it for the others that were announced."""
        self._kept[key] = tile
        return self.take(key)

    def take(self, key: TileKey) -> np.ndarray | None:
        """Return a tile that is kept, or None for an empty tile; the last use drops it."""
        left = self._uses[key] = self._uses.get(key, 1) - 1
        return self._kept[key] if left > 0 else self._kept.pop(key)
