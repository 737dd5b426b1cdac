"""Comparison of two areas under ROC curves of the same items (DeLong, DeLong & Clarke-Pearson 1988)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm, rankdata

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class AreaTest:
    """Two areas, the standard error of their difference, and the two-sided p of the hypothesis that they are equal.

    ``error`` and ``p`` are NaN where the variance is not defined or zero: with fewer than two items of a class, or
    where both scores order the items in the same way.
    """

    areas: tuple[float, float]
    error: float
    p: float


def compare_areas(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> AreaTest:
    """Compare the areas of two scores float (2, n) of the same independent items; ``positive``: bool (n,).

    Raises ValueError if there are not items of both classes.
    """
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        raise ValueError("an area under the ROC curve needs items of both classes")
    above, below = _placements(scores, positive)
    areas = above.mean(1)
    variance = np.nan
    if m > 1 and n > 1:
        contrast = np.array([1.0, -1.0])
        variance = contrast @ (np.cov(above) / m + np.cov(below) / n) @ contrast
    # Placements are multiples of 1 / 2mn, so that a variance of this size is zero but for rounding.
    error = float(np.sqrt(variance)) if variance > 1e-12 else np.nan
    p = float(2 * norm.sf(abs(areas[0] - areas[1]) / error)) if np.isfinite(error) else np.nan
    return AreaTest((float(areas[0]), float(areas[1])), error, p)


def _placements(
    scores: NDArray[np.floating], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of negatives below each positive (2, m), and of positives above each negative (2, n), ties half.

    From midranks, as Sun & Xu (2014) do, and not from all pairs.
    """
    m, n = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores, axis=1)
    of_positive, of_negative = scores[:, positive], scores[:, ~positive]
    above = (ranks[:, positive] - rankdata(of_positive, axis=1)) / n
    below = 1 - (ranks[:, ~positive] - rankdata(of_negative, axis=1)) / m
    return above, below
