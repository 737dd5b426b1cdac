"""Rectangles of pixels in a two-dimensional grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Window(NamedTuple):
    """A rectangle of a grid's pixels, which may extend beyond the grid."""

    y: int
    x: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rectangle as an index into a (y, x) array."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def grown(self, before: int, after: int) -> Window:
        """Return the rectangle extended by ``before`` pixels above and left, and ``after`` below and right."""
        return Window(self.y - before, self.x - before, self.height + before + after, self.width + before + after)

    def cut_to(self, shape: tuple[int, int]) -> Window:
        """Return the part of the rectangle that lies on a grid of ``shape`` (height, width)."""
        y, x = max(self.y, 0), max(self.x, 0)
        bottom, right = min(self.y + self.height, shape[0]), min(self.x + self.width, shape[1])
        return Window(y, x, max(0, bottom - y), max(0, right - x))

    def within(self, outer: Window) -> Window:
        """Return the same rectangle with its position counted from the corner of ``outer``."""
        return Window(self.y - outer.y, self.x - outer.x, self.height, self.width)


def tiled(shape: tuple[int, int], height: int, width: int | None = None) -> Iterator[Window]:
    """Yield tiles of a grid of ``shape``, row by row, square by default; those at the far edges are cut to it."""
    width = width or height
    for y in range(0, shape[0], height):
        for x in range(0, shape[1], width):
            yield Window(y, x, min(height, shape[0] - y), min(width, shape[1] - x))
