"""Random patch positions inside tissue, off the grid: grid cells shifted at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from histomake.base.units import Level0Pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

USABLE = ("", "background")
"""Values of ``excluded`` whose tissue may appear in a shifted patch: not pen, blur, fold, edge or region."""

TRIES = 8


class TissueLattice:
    """Tissue share of every grid cell of a slide, to estimate the tissue share of patches between cells."""

    def __init__(self, table: pa.Table) -> None:
        """Build the lattice from the slide's complete patch table, including excluded cells."""
        self.columns, column = np.unique(table["x"].to_numpy(), return_inverse=True)
        self.rows, row = np.unique(table["y"].to_numpy(), return_inverse=True)
        self.share = np.zeros((len(self.rows), len(self.columns)), np.float32)
        usable = np.isin(table["excluded"].cast("string").to_numpy(zero_copy_only=False), USABLE)
        self.share[row, column] = np.where(usable, table["tissue"].to_numpy(), 0)

    @property
    def step(self) -> float:
        """Distance between adjacent cells in level-0 pixels."""
        axis = self.columns if len(self.columns) > 1 else self.rows
        return float(axis[-1] - axis[0]) / (len(axis) - 1) if len(axis) > 1 else 0.0

    def tissue(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the tissue share of patches at ``x``, ``y`` (level-0 px), interpolated from the four nearest cells."""
        if self.step == 0:
            return np.full(len(x), self.share.flat[0] if self.share.size else 0.0)
        padded = np.pad(self.share, 1)
        column = np.clip((x - self.columns[0]) / self.step + 1, 0, padded.shape[1] - 1.001)
        row = np.clip((y - self.rows[0]) / self.step + 1, 0, padded.shape[0] - 1.001)
        j, i = column.astype(int), row.astype(int)
        right, down = column - j, row - i
        top = padded[i, j] * (1 - right) + padded[i, j + 1] * right
        bottom = padded[i + 1, j] * (1 - right) + padded[i + 1, j + 1] * right
        share: NDArray[np.float64] = top * (1 - down) + bottom * down
        return share


def move(
    lattice: TissueLattice, x: Level0Pixels, y: Level0Pixels, *, min_tissue: float, rng: np.random.Generator
) -> tuple[Level0Pixels, Level0Pixels]:
    """Shift the cell at ``x``, ``y`` by at most half a cell to a position with enough tissue.

    Returns the cell itself if no such position is found. If cells are drawn uniformly, positions are uniform over the
    tissue, as in histo-fetch, but without a search.
    """
    shift = rng.uniform(-0.5, 0.5, (TRIES, 2)) * lattice.step
    candidates = np.rint(np.array([x, y]) + shift).astype(np.int64)
    enough = lattice.tissue(candidates[:, 0], candidates[:, 1]) >= min_tissue
    inside = (candidates >= 0).all(axis=1)
    chosen = np.flatnonzero(enough & inside)
    if len(chosen):
        x, y = (Level0Pixels(int(position)) for position in candidates[chosen[0]])
    return x, y
