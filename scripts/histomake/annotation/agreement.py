"""Agreement of readers: Cohen's and Fleiss' kappa, Dice coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histomake.annotation.patterns import Patterns

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cohen_kappa(confusion: NDArray[np.number]) -> float | None:
    """Agreement of two readers beyond chance (Cohen, 1960).

    Args:
        confusion: amount of each pair of labels (labels, labels).

    Returns:
        1 for the same labels everywhere, 0 for agreement by chance; None if both have one label only, or nothing.
    """
    total = float(confusion.sum())
    if total == 0:
        return None
    observed = float(np.trace(confusion)) / total
    expected = float((confusion.sum(axis=0) / total) @ (confusion.sum(axis=1) / total))
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def fleiss_kappa(patterns: Patterns) -> float | None:
    """Agreement of two or more readers beyond chance (Fleiss, 1971); None if all have one label only, or nothing."""
    total, readers = int(patterns.pixels.sum()), patterns.readers
    if total == 0 or readers < 2:
        return None
    votes, weights = patterns.votes(), patterns.pixels / total
    observed = float(weights @ ((votes**2).sum(axis=1) - readers)) / (readers * (readers - 1))
    shares = weights @ votes / readers
    expected = float(shares @ shares)
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def dice(confusion: NDArray[np.number]) -> NDArray[np.float64]:
    """Dice coefficient of each label (Dice, 1945), float64 (labels,); NaN where neither reader has the label."""
    both = np.diag(confusion).astype(np.float64)
    sizes = confusion.sum(axis=0) + confusion.sum(axis=1)
    return np.divide(2 * both, sizes, out=np.full(both.shape, np.nan), where=sizes > 0)
