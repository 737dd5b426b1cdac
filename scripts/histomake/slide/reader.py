"""Owns fast patch reading from a store: which level, which tiles, decoded how, resampled how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histomake.errors import Reason, SlideError
from histomake.files import read_json
from histomake.slide.codec import TileDecodeError
from histomake.slide.store import FILL, Level, Store, StoreError
from histomake.types import Level0Pixels, Mpp

SAME_SCALE = 0.01
"""Scales closer than this share count as equal: scanners round their mpp."""

STRIP_BYTES = 1 << 26
"""Decoded pixels held at once while a whole slide is reduced."""


class SlideReader:
    """Patches of a stored slide, by level-0 position and resolution.

    Several threads may read at once, a forked child may go on reading, and a pickled reader opens its store again.
    """

    def __init__(self, store: Path | str, *, slide_id: str | None = None) -> None:
        self.path = Path(store)
        self.slide_id = slide_id or self.path.name.partition(".zarr")[0]
        try:
            self._store = Store(self.path)
        except StoreError as error:
            raise self._error(str(error)) from error
        self.levels: list[Level] = self._store.levels
        self.width, self.height = self.levels[0].width, self.levels[0].height
        self.mpp: Mpp = Mpp(self._store.attributes["mpp"])

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.slide_id)

    def __enter__(self) -> SlideReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing stays open for long: shards are closed when they leave the process-wide cache."""

    def _error(self, detail: str) -> SlideError:
        return SlideError(
            Reason.DAMAGED_TILES,
            slide_id=self.slide_id,
            path=self.path,
            detail=detail,
            remedy="Delete the store to have it converted again; if that fails too, the slide file is damaged",
        )

    def level_for(self, mpp: Mpp) -> int:
        """The coarsest level that is at least as fine as ``mpp``."""
        wanted = mpp / self.mpp * (1 + SAME_SCALE)
        return max((i for i, level in enumerate(self.levels) if level.downsample <= wanted), default=0)

    def read(
        self, x: Level0Pixels | int, y: Level0Pixels | int, size: int | tuple[int, int], mpp: Mpp | float
    ) -> np.ndarray:
        """One patch: uint8 RGB (h, w, 3).

        ``x``, ``y``: its top-left corner in level-0 pixels, which may lie outside the slide; what lies outside is
        white. ``size``: its edge, or (width, height), in pixels at ``mpp`` µm per pixel. The patch shows the
        level-0 box from x to x + size * mpp / self.mpp.
        """
        width, height = (size, size) if isinstance(size, int) else size
        index = self.level_for(Mpp(mpp))
        level = self.levels[index]
        scale = mpp / self.mpp / level.downsample
        if abs(scale - 1) <= SAME_SCALE:
            left, top = round(x / level.downsample), round(y / level.downsample)
            return self.read_level(index, left, top, width, height)
        left, top = x / level.downsample, y / level.downsample
        return self._resampled(index, left, top, width, height, scale)

    def read_many(
        self, positions: Sequence[tuple[int, int]], size: int | tuple[int, int], mpp: Mpp | float
    ) -> np.ndarray:
        """Several patches of one size: uint8 RGB (n, h, w, 3), in the order of ``positions``."""
        width, height = (size, size) if isinstance(size, int) else size
        out = np.empty((len(positions), height, width, 3), np.uint8)
        for patch, (x, y) in zip(out, positions, strict=True):
            patch[:] = self.read(x, y, (width, height), mpp)
        return out

    def read_whole(self, mpp: Mpp | float) -> np.ndarray:
        """The whole slide at ``mpp``: uint8 RGB (ceil(height * self.mpp / mpp), ceil(width * self.mpp / mpp), 3)."""
        factor = self.mpp / mpp
        width, height = math.ceil(self.width * factor - 1e-9), math.ceil(self.height * factor - 1e-9)
        level = self.levels[self.level_for(Mpp(mpp))]
        scale = 1 / factor / level.downsample
        rows = max(1, int(STRIP_BYTES / (level.width * 3 * max(scale, 1e-9))))
        out = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows):
            count = min(rows, height - top)
            index = self.level_for(Mpp(mpp))
            out[top : top + count] = self._resampled(index, 0.0, top * scale, width, count, scale)
        return out

    def _resampled(self, index: int, left: float, top: float, width: int, height: int, scale: float) -> np.ndarray:
        """Area average (or, when enlarging, linear interpolation) of a box of level pixels."""
        right, bottom = left + width * scale, top + height * scale
        x0, y0 = math.floor(left + 1e-6), math.floor(top + 1e-6)
        x1, y1 = math.ceil(right - 1e-6), math.ceil(bottom - 1e-6)
        region = self.read_level(index, x0, y0, x1 - x0, y1 - y0)
        if region.shape[:2] == (round(height * scale), round(width * scale)) and abs(left - x0) + abs(top - y0) < 1e-3:
            return cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR)
        return _average_box(region, left - x0, top - y0, width, height, scale)

    def read_level(self, index: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels of one level as they are: uint8 RGB (height, width, 3), white outside the slide and in empty tiles."""
        level = self.levels[index]
        out = np.full((height, width, 3), FILL, np.uint8)
        th, tw = level.tile_height, level.tile_width
        right, bottom = min(x + width, level.width), min(y + height, level.height)
        for row in range(max(y, 0) // th, -(-bottom // th)):
            for column in range(max(x, 0) // tw, -(-right // tw)):
                tile = self.tile(index, row, column)
                if tile is None:
                    continue
                left, top = column * tw, row * th
                x0, y0, x1, y1 = max(x, left), max(y, top), min(right, left + tw), min(bottom, top + th)
                out[y0 - y : y1 - y, x0 - x : x1 - x] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return out

    def tile(self, index: int, row: int, column: int) -> np.ndarray | None:
        """One decoded tile, uint8 RGB (tile_height, tile_width, 3), or None where the slide is empty."""
        level = self.levels[index]
        try:
            data = self._store.tile(index, row, column)
            return None if data is None else level.coding.decode(data, level.tile_shape)
        except (StoreError, TileDecodeError) as error:
            raise self._error(f"level {index}, tile row {row}, column {column}: {error}") from error


def _average_box(region: np.ndarray, dx: float, dy: float, width: int, height: int, scale: float) -> np.ndarray:
    """Exact area average over boxes that start between pixels, as two sparse matrix products."""
    rows = _weights(region.shape[0], dy, height, scale)
    columns = _weights(region.shape[1], dx, width, scale)
    lines = (rows @ region.reshape(region.shape[0], -1).astype(np.float32)).reshape(height, region.shape[1], 3)
    return np.clip(np.einsum("hwc,ow->hoc", lines, columns, optimize=True) + 0.5, 0, 255).astype(np.uint8)


def _weights(source: int, start: float, count: int, scale: float) -> np.ndarray:
    """(count, source) shares of each source pixel in each output pixel; rows sum to 1."""
    edges = start + np.arange(count + 1) * scale
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    overlap = np.clip(overlap, 0, None).astype(np.float32)
    return overlap / overlap.sum(axis=1, keepdims=True)


def _reopen(path: Path, slide_id: str) -> SlideReader:
    return SlideReader(path, slide_id=slide_id)


def open_slide(manifest: Path | str) -> SlideReader:
    """The reader of the store that a manifest names; SlideError where the slide is in quarantine."""
    manifest = Path(manifest)
    record = read_json(manifest)
    if record["status"] != "ok":
        raise SlideError(
            Reason(record["reason"]),
            slide_id=record["slide_id"],
            path=record["path"],
            detail=record["detail"],
            remedy=record["remedy"],
        )
    return SlideReader(manifest.parent / record["store"], slide_id=record["slide_id"])
