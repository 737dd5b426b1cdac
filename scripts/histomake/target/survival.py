"""What can be said of risks and survival times without a model: which pairs are in order, and who is at high risk.

Imports no torch, unlike training. Times are in any unit; an event is 1, or 0 if it had not happened by that time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histomake.target.pooling import Threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray


def high_risk(scores: NDArray[np.floating], threshold: Threshold) -> NDArray[np.int64]:
    """Group int64 (n,) from risks (n, 1): 1 above the threshold, which is the median risk of validation, else 0."""
    return (scores[:, 0] > threshold).astype(np.int64)


def ordered_pairs(
    risk: NDArray[np.floating], time: NDArray[np.floating], event: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pairs of n patients that Harrell's C-index compares: comparable and concordant, both float64 (n, n).

    ``comparable[i, j]`` is 1 if i had the event and j outlived i: a later time, or the same time without the event
    (Harrell et al. 1996, section 5.5). ``concordant[i, j]`` is 1 if i then has the larger risk, 1/2 if both are equal.
    """
    later = time[:, None] < time[None, :]
    together = (time[:, None] == time[None, :]) & (event[None, :] == 0)
    comparable = ((event[:, None] == 1) & (later | together)).astype(np.float64)
    right = (risk[:, None] > risk[None, :]) + 0.5 * (risk[:, None] == risk[None, :])
    return comparable, comparable * right


def concordance(risk: NDArray[np.floating], time: NDArray[np.floating], event: NDArray[np.floating]) -> float:
    """Harrell's C-index of risks (n,), times and events; NaN where no two patients can be compared."""
    comparable, concordant = ordered_pairs(risk, time, event)
    total = float(comparable.sum())
    return float(concordant.sum()) / total if total else float("nan")
