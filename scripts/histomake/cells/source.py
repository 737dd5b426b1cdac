"""The cells of one slide, wherever they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from histomake.base.units import Mpp
from histomake.cells.tile import Tile


@dataclass(frozen=True)
class CellSource:
    """The cells of one slide on a grid of pixels, tile by tile.

    Attributes:
        shape: Height and width of the grid.
        scale: Level-0 pixels per pixel of the grid.
        mpp: Resolution of the grid.
        class_names: Classes of the cells; empty without classes.
        tiles: Iterates over the cells, each once.
        losses: Number of cells that were left out, by the reason in words; filled by ``tiles``.
    """

    shape: tuple[int, int]
    scale: float
    mpp: Mpp
    class_names: tuple[str, ...]
    tiles: Callable[[], Iterator[Tile]]
    losses: Counter[str] = field(default_factory=Counter)
