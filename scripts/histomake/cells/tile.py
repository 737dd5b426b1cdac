"""Part of a grid with whole cells, as they are passed from their source to measures and files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.windows import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Tile:
    """Whole cells of one part of a grid.

    Attributes:
        window: Position on the grid; it contains every pixel of the cells.
        labels: int32 (height, width): 1 to the number of cells; 0 is background and cells of other tiles.
        count: Number of cells.
        classes: Index of each cell's class, uint8 (count,); None without classes.
    """

    window: Window
    labels: NDArray[np.int32]
    count: int
    classes: NDArray[np.uint8] | None = None

    def cropped(self) -> Tile:
        """Return the tile without rows and columns at its edges that have no cell. The tile must have a cell."""
        rows, columns = (np.flatnonzero((self.labels > 0).any(axis)) for axis in (1, 0))
        top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
        window = Window(self.window.y + top, self.window.x + left, bottom - top, right - left)
        return replace(self, window=window, labels=np.ascontiguousarray(self.labels[top:bottom, left:right]))


def numbered(
    labels: NDArray[np.int32], kept: NDArray[np.bool_], window: Window, classes: NDArray[np.uint8] | None = None
) -> Tile:
    """Return the tile of the labels that are ``kept``, numbered anew in their order.

    Args:
        labels: (h, w), numbers 0 to n.
        kept: (n,), for the numbers 1 to n.
        window: Position on the grid.
        classes: (n,).
    """
    numbers = np.zeros(kept.size + 1, np.int32)
    numbers[1:][kept] = np.arange(1, np.count_nonzero(kept) + 1)
    return Tile(window, numbers[labels], int(kept.sum()), None if classes is None else classes[kept])
