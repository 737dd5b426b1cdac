"""Tiles that a file does not hold: white at level 0, made from the finer level at the others.

Writers leave out tiles of background. A tile that is absent from a reduced level only is a gap in the file: tissue
would be lost wherever that level is read. OpenSlide fills such gaps in the same way.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from histomake.slide.sources.base import Source, TileBytes, paste, touching

FINE_PX = 2048
"""Longest side of a box of the finer level that is in memory at once."""


class CompletedSource(Source):
    """Another source whose reduced levels have no gaps."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.path)
        self._source = source
        self.info = source.info
        self._gaps: list[np.ndarray | None] = []
        for level in range(len(self.info.levels)):
            self._gaps.append(self._find_gaps(level))

    @classmethod
    def of(cls, source: Source) -> Source:
        """Return ``source`` itself if it has no gaps."""
        completed = cls(source)
        return completed if any(gaps is not None for gaps in completed._gaps) else source

    def _find_gaps(self, level: int) -> np.ndarray | None:
        missing = self._source.missing(level) if level else None
        if missing is None or not missing.any():
            return None
        gaps = np.zeros_like(missing)
        for row, column in np.argwhere(missing).tolist():
            gaps[row, column] = self._has_pixels(level - 1, *self._finer_box(level, *self._box(level, row, column)))
        return gaps if gaps.any() else None

    def _finer_box(self, level: int, x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the box of the finer level that a box (x, y, width, height) of ``level`` shows."""
        own, finer = self.info.levels[level], self.info.levels[level - 1]
        along_x, along_y = finer.width / own.width, finer.height / own.height
        left, top = round(x * along_x), round(y * along_y)
        right, bottom = round((x + width) * along_x), round((y + height) * along_y)
        return left, top, max(1, right - left), max(1, bottom - top)

    def _box(self, level: int, row: int, column: int) -> tuple[int, int, int, int]:
        """Return the part (x, y, width, height) of a tile that is inside ``level``."""
        own = self.info.levels[level]
        x, y = column * own.tile_width, row * own.tile_height
        return x, y, min(own.tile_width, own.width - x), min(own.tile_height, own.height - y)

    def _has_pixels(self, level: int, x: int, y: int, width: int, height: int) -> bool:
        missing, gaps = self._source.missing(level), self._gaps[level]
        if missing is None:
            return True
        empty = missing if gaps is None else missing & ~gaps
        own = self.info.levels[level]
        rows = slice(y // own.tile_height, -(-(y + height) // own.tile_height))
        columns = slice(x // own.tile_width, -(-(x + width) // own.tile_width))
        return not empty[rows, columns].all()

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read pixels of ``level`` as uint8 (height, width, 3), gaps from the finer level by area means."""
        gaps, own = self._gaps[level], self.info.levels[level]
        pixels = self._source.read(level, x, y, width, height)
        if gaps is None:
            return pixels
        pixels = pixels.copy()
        for row, column in touching(x, y, width, height, own.tile_width, own.tile_height):
            if gaps[row, column]:
                left, top, *size = self._box(level, row, column)
                paste(pixels, self._from_finer(level, left, top, *size), left - x, top - y)
        return pixels

    def _from_finer(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Make a box of ``level`` from the finer level, of which FINE_PX are read at a time."""
        out = np.empty((height, width, 3), np.uint8)
        ratio = self.info.levels[level - 1].width / self.info.levels[level].width
        step = max(1, int(FINE_PX / ratio))
        for top in range(0, height, step):
            for left in range(0, width, step):
                size = min(step, width - left), min(step, height - top)
                finer = self.read(level - 1, *self._finer_box(level, x + left, y + top, *size))
                paste(out, cv2.resize(finer, size, interpolation=cv2.INTER_AREA), left, top)
        return out

    def missing(self, level: int) -> np.ndarray | None:
        """Return which tiles the file does not hold."""
        return self._source.missing(level)

    def to_fill(self, level: int) -> np.ndarray | None:
        """Return the gaps of ``level``."""
        return self._gaps[level]

    def tile_bytes(self, level: int) -> TileBytes:
        """Return the byte ranges of the tiles that the file holds."""
        return self._source.tile_bytes(level)

    def associated(self) -> dict[str, Callable[[], np.ndarray]]:
        """Return the readers of associated images."""
        return self._source.associated()

    def close(self) -> None:
        """Close the file."""
        self._source.close()
