"""Levels of a cascade on one slide: their grids, the relations between grids, and reading of pixels.

Positions are (y, x) pixels of one level's grid. Pixel i of a level covers ``[i * mpp, (i + 1) * mpp)`` micrometres from
the top or left edge of the slide, so the grids of all levels share these edges.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.errors import Reason, SlideError
from histomake.base.records.manifest import Manifest
from histomake.base.units import Level0Pixels, Mpp, enlarged_too_much
from histomake.base.windows import Window, tiled
from histomake.config import Radhical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader


TILE_PX, TILES = 256, 1024
"""Slides are read in tiles of a level's grid. The most recent tiles are cached, because adjacent blocks overlap."""

BLOCK_STEP = 8
"""Block edges are multiples of this, so that blocks are aligned with the cells of any network."""


@dataclass(frozen=True)
class Level:
    """One magnification of one slide; level 1 is the finest."""

    number: int
    mpp: Mpp
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Number of pixels of the whole grid."""
        return self.height * self.width

    def blocks(self, height: int, width: int | None = None) -> Iterator[Window]:
        """Return the blocks of the grid, row by row, square by default; those at the far edges are cut to it."""
        return tiled((self.height, self.width), height, width)

    def block_shape(self, edge: int) -> tuple[int, int]:
        """Return the shape of equal blocks of at most ``edge`` (a multiple of BLOCK_STEP) that waste least at edges."""

        def even(size: int) -> int:
            return BLOCK_STEP * math.ceil(size / math.ceil(size / edge) / BLOCK_STEP)

        return even(self.height), even(self.width)


def levels_of(
    *, width: Level0Pixels, height: Level0Pixels, mpp: Mpp, finest_mpp: Mpp, scales: Sequence[float]
) -> list[Level]:
    """Return the levels of a slide of ``width`` x ``height`` level-0 pixels, finest first; sizes are rounded up."""
    levels = []
    for number, scale in enumerate(scales, start=1):
        ratio = mpp * scale / finest_mpp
        size = [max(1, math.ceil(edge * ratio - 1e-6)) for edge in (height, width)]
        levels.append(Level(number, Mpp(finest_mpp / scale), *size))
    return levels


def require_resolution(manifest: Manifest, config: Radhical) -> None:
    """Raise SlideError if the pixels of a slide are too large for the cascade's finest level."""
    if enlarged_too_much(manifest.mpp, config.mpp, config.max_upsampling):
        raise SlideError(
            Reason.TOO_COARSE,
            slide_id=manifest.slide_id,
            path=manifest.store,
            detail=f"the slide has {manifest.mpp:g} µm per pixel, {manifest.mpp / config.mpp:.3g} times as coarse as "
            f"level 1 of the cascade ({config.mpp:g}; max_upsampling is {config.max_upsampling:g})",
            remedy="Use a cascade with a coarser mpp, or give the mpp in the sheet if that of the file is wrong",
        )


def slide_levels(manifest: Manifest, config: Radhical) -> list[Level]:
    """Return the cascade's levels on a slide, finest first."""
    return levels_of(
        width=manifest.width,
        height=manifest.height,
        mpp=manifest.mpp,
        finest_mpp=config.mpp,
        scales=config.scales,
    )


def mirrored(start: int, length: int, size: int) -> NDArray[np.intp]:
    """Return indices ``start`` to ``start + length`` of an axis of ``size``, mirrored beyond it (… 1 0 | 0 1 2 …)."""
    index = np.arange(start, start + length) % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


def read_window(reader: SlideReader, level: Level, window: Window) -> NDArray[np.uint8]:
    """Read pixels (height, width, 3) of a window; beyond the slide they are mirrored, as in the paper."""
    rows, columns = (
        mirrored(window.y, window.height, level.height),
        mirrored(window.x, window.width, level.width),
    )
    top, left, bottom, right = int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1
    pixels = np.empty((bottom - top, right - left, 3), np.uint8)
    for y in range(top - top % TILE_PX, bottom, TILE_PX):
        for x in range(left - left % TILE_PX, right, TILE_PX):
            tile = _tile(reader, level, y, x)
            y0, x0, y1, x1 = max(y, top), max(x, left), min(y + TILE_PX, bottom), min(x + TILE_PX, right)
            pixels[y0 - top : y1 - top, x0 - left : x1 - left] = tile[y0 - y : y1 - y, x0 - x : x1 - x]
    if pixels.shape[:2] == (window.height, window.width) and (rows[0], columns[0]) == (top, left):
        return pixels
    return pixels[np.ix_(rows - top, columns - left)]


@lru_cache(maxsize=TILES)
def _tile(reader: SlideReader, level: Level, y: int, x: int) -> NDArray[np.uint8]:
    """Read one tile of a level's grid. Tiles are fixed, because resampled pixels depend on where a read starts."""
    scale = level.mpp / reader.mpp
    size = min(TILE_PX, level.width - x), min(TILE_PX, level.height - y)
    return reader.read(Level0Pixels(round(x * scale)), Level0Pixels(round(y * scale)), size, level.mpp)


def upsample(
    coarse: NDArray[np.float32], *, ratio: float, window: Window, region: Window, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Interpolate a coarse map bilinearly at the pixels of a finer level.

    Values are located at pixel centres; beyond the outermost centres they are constant. The result for a pixel depends
    only on its position, not on the window.

    Args:
        coarse: (channels, h, w), the part of the coarse map at ``region``, as returned by `support`.
        ratio: Coarse mpp / fine mpp.
        window: The fine pixels.
        region: Position of ``coarse`` in the coarse grid.
        size: (height, width) of the whole coarse grid.

    Returns:
        float32 (channels, window.height, window.width).
    """
    y0, y1, wy = _neighbours(window.y, window.height, ratio, size[0])
    x0, x1, wx = _neighbours(window.x, window.width, ratio, size[1])
    columns = coarse[:, :, x0 - region.x] * (1 - wx) + coarse[:, :, x1 - region.x] * wx
    rows = columns[:, y0 - region.y] * (1 - wy)[:, None]
    rows += columns[:, y1 - region.y] * wy[:, None]
    return rows


def support(window: Window, *, ratio: float, size: tuple[int, int]) -> Window:
    """Return the part of a coarse grid of ``size`` (height, width) that `upsample` needs for a window."""
    y0, y1, _ = _neighbours(window.y, window.height, ratio, size[0])
    x0, x1, _ = _neighbours(window.x, window.width, ratio, size[1])
    return Window(int(y0[0]), int(x0[0]), int(y1[-1] - y0[0]) + 1, int(x1[-1] - x0[0]) + 1)


def nearest(start: int, length: int, *, ratio: float, size: int) -> NDArray[np.intp]:
    """Return, along one axis, the coarse pixels that contain the centres of fine pixels."""
    return np.minimum(((np.arange(start, start + length) + 0.5) / ratio).astype(np.intp), size - 1)


def _neighbours(
    start: int, length: int, ratio: float, size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return, along one axis, the two coarse pixels around each fine pixel's centre, and the weight of the second."""
    place = np.clip((np.arange(start, start + length) + 0.5) / ratio - 0.5, 0, size - 1)
    first = place.astype(np.intp)
    return first, np.minimum(first + 1, size - 1), (place - first).astype(np.float32)
