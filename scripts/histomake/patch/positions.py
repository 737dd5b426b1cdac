"""Owns where inside tissue a patch lies that need not be on the grid: a grid cell, moved at random."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

USABLE = ("", "background")
"""Cells whose tissue may be shown in part: not those left out for pen, blur, folds, edge or region."""

TRIES = 8


class TissueLattice:
    """Tissue share of every grid cell of a slide, for asking how much tissue a patch between cells has."""

    def __init__(self, table: pa.Table) -> None:
        """``table``: the slide's whole patch table, excluded cells too."""
        self.columns, column = np.unique(table["x"].to_numpy(), return_inverse=True)
        self.rows, row = np.unique(table["y"].to_numpy(), return_inverse=True)
        self.share = np.zeros((len(self.rows), len(self.columns)), np.float32)
        usable = np.isin(table["excluded"].cast("string").to_numpy(zero_copy_only=False), USABLE)
        self.share[row, column] = np.where(usable, table["tissue"].to_numpy(), 0)

    @property
    def step(self) -> float:
        """Distance of neighbouring cells in level-0 px."""
        axis = self.columns if len(self.columns) > 1 else self.rows
        return float(axis[-1] - axis[0]) / (len(axis) - 1) if len(axis) > 1 else 0.0

    def tissue(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Tissue share of patches at ``x``, ``y`` (level-0 px): the four nearest cells', weighted by overlap."""
        if self.step == 0:
            return np.full(len(x), self.share.flat[0] if self.share.size else 0.0)
        padded = np.pad(self.share, 1)
        column = np.clip((x - self.columns[0]) / self.step + 1, 0, padded.shape[1] - 1.001)
        row = np.clip((y - self.rows[0]) / self.step + 1, 0, padded.shape[0] - 1.001)
        j, i = column.astype(int), row.astype(int)
        right, down = column - j, row - i
        top = padded[i, j] * (1 - right) + padded[i, j + 1] * right
        bottom = padded[i + 1, j] * (1 - right) + padded[i + 1, j + 1] * right
        return top * (1 - down) + bottom * down


def move(lattice: TissueLattice, x: int, y: int, *, min_tissue: float, rng: np.random.Generator) -> tuple[int, int]:
    """A place at most half a cell from the cell at ``x``, ``y`` with enough tissue; the cell itself if none is found.

    Over cells drawn evenly the place is even over the tissue, as in histo-fetch, yet is found at once.
    """
    shift = rng.uniform(-0.5, 0.5, (TRIES, 2)) * lattice.step
    candidates = np.rint(np.array([x, y]) + shift).astype(np.int64)
    enough = lattice.tissue(candidates[:, 0], candidates[:, 1]) >= min_tissue
    inside = (candidates >= 0).all(axis=1)
    chosen = np.flatnonzero(enough & inside)
    return (x, y) if not len(chosen) else (int(candidates[chosen[0], 0]), int(candidates[chosen[0], 1]))
