"""Labels of several readers on one grid of pixels, as counts of their combinations.

Agreement and consensus depend on the combination of labels at a pixel only, not on its place. A slide of any size has
few combinations, so everything is computed from their counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_COUNTED = 2**20
"""Combinations up to which all are counted, and beyond which they are sorted, which takes memory for pixels only."""


@dataclass(frozen=True)
class Patterns:
    """Combinations of labels that occur, and how often.

    labels: uint8 (n, readers), 0 for no class; pixels: int64 (n,); names: class of each label from 1 on.
    """

    labels: NDArray[np.uint8]
    pixels: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def of(cls, counts: Counter[tuple[int, ...]], names: tuple[str, ...], *, readers: int) -> Patterns:
        """From the number of pixels by combination; their order does not depend on that of ``counts``."""
        found = sorted((pattern, n) for pattern, n in counts.items() if n)
        labels = np.array([pattern for pattern, _ in found], np.uint8).reshape(-1, readers)
        return cls(labels, np.array([n for _, n in found], np.int64), names)

    @property
    def readers(self) -> int:
        """Number of readers."""
        return self.labels.shape[1]

    def votes(self) -> NDArray[np.int64]:
        """Number of readers for each label, (n, labels)."""
        return (self.labels[:, :, None] == np.arange(len(self.names) + 1)).sum(axis=1)

    def confusion(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Pixels by two labels of each combination, (labels, labels)."""
        size = len(self.names) + 1
        result = np.zeros((size, size), np.int64)
        np.add.at(result, (first, second), self.pixels)
        return result


def combinations_in(labels: NDArray[np.uint8], counted: NDArray[np.bool_]) -> Counter[tuple[int, ...]]:
    """Count the combinations of labels, uint8 (readers, h, w), at the pixels of ``counted``, bool (h, w)."""
    columns = labels[:, counted]
    codes = np.zeros(columns.shape[1], np.int64)
    known = np.zeros((1, 0), np.uint8)
    for of_reader in columns:
        # Codes are made small again after each reader, so that any number of readers and classes fits.
        values, codes = _renumbered(codes * 256 + of_reader, 256 * len(known))
        known = np.hstack([known[values // 256], (values % 256).astype(np.uint8)[:, None]])
    return Counter(
        dict(zip(map(tuple, known.tolist()), np.bincount(codes, minlength=len(known)).tolist(), strict=True))
    )


def _renumbered(codes: NDArray[np.int64], end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The sorted distinct ``codes``, all below ``end``, and for each code its position among them."""
    if end > MOST_COUNTED:
        return np.unique(codes, return_inverse=True)
    # Counting is some twenty times as fast as sorting, which takes minutes on a whole slide.
    present = np.bincount(codes, minlength=end) > 0
    return np.flatnonzero(present), (np.cumsum(present) - 1)[codes]
