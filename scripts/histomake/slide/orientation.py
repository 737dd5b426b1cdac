"""Slides that are stored turned or mirrored, shown upright (tag 274 of TIFF and EXIF)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from histomake.slide.sources.base import Source, SourceLevel, UnsupportedSlideError

UPRIGHT = 1
_TRANSPOSED = (5, 6, 7, 8)
_MIRRORED_X = (2, 3, 6, 7)
"""Orientations in which x of the upright image counts backwards along the stored axis."""
_MIRRORED_Y = (3, 4, 7, 8)


class UprightSource(Source):
    """Another source in its upright position. Its tiles cannot be copied."""

    def __init__(self, source: Source, orientation: int) -> None:
        super().__init__(source.path)
        if not UPRIGHT <= orientation <= 8:
            raise UnsupportedSlideError(f"the orientation tag has the value {orientation}, which has no meaning")
        self._source, self._orientation = source, orientation
        self._transposed = orientation in _TRANSPOSED
        info = source.info
        self.info = replace(
            info,
            levels=tuple(map(self._upright, info.levels)),
            vendor_mpp=self._swap(info.vendor_mpp),
            tag_mpp=self._swap(info.tag_mpp),
            properties=info.properties | {"orientation": f"stored as {orientation} (tag 274), shown upright"},
        )

    def _upright(self, level: SourceLevel) -> SourceLevel:
        sides = (level.width, level.height, level.tile_width, level.tile_height)
        if self._transposed:
            sides = (level.height, level.width, level.tile_height, level.tile_width)
        return SourceLevel(*sides)

    def _swap(self, pair: tuple[float, float] | None) -> tuple[float, float] | None:
        return (pair[1], pair[0]) if pair and self._transposed else pair

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read pixels of the upright ``level`` as uint8 (height, width, 3)."""
        upright = self.info.levels[level]
        left = upright.width - x - width if self._orientation in _MIRRORED_X else x
        top = upright.height - y - height if self._orientation in _MIRRORED_Y else y
        box = (top, left, height, width) if self._transposed else (left, top, width, height)
        return self._turn(self._source.read(level, *box))

    def _turn(self, pixels: np.ndarray) -> np.ndarray:
        if self._transposed:
            pixels = pixels.transpose(1, 0, 2)
        if self._orientation in _MIRRORED_X:
            pixels = pixels[:, ::-1]
        if self._orientation in _MIRRORED_Y:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)

    def to_fill(self, level: int) -> np.ndarray | None:
        """Return the stored tiles of ``level`` that are made from the finer level."""
        return self._source.to_fill(level)

    def associated(self) -> dict[str, Callable[[], np.ndarray]]:
        """Return the readers of associated images, as they are stored."""
        return self._source.associated()

    def close(self) -> None:
        """Close the file."""
        self._source.close()
