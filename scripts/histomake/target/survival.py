"""What can be said of risks and survival times without a model: which pairs are in order, and who is at high risk.

Imports no torch, unlike training. Times are in any unit; an event is 1, or 0 if it had not happened by that time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histomake.target.pooling import Threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

TREE_NUMBERS = 2**24
"""Numbers of the tree in which weights are summed, at most: 128 MiB."""


def high_risk(scores: NDArray[np.floating], threshold: Threshold) -> NDArray[np.int64]:
    """Group int64 (n,) from risks (n, 1): 1 above the threshold, which is the median risk of validation, else 0."""
    return (scores[:, 0] > threshold).astype(np.int64)


def ordered_pairs(
    risk: NDArray[np.floating],
    time: NDArray[np.floating],
    event: NDArray[np.floating],
    weight: NDArray[np.floating] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of the pairs that Harrell's C-index compares: comparable and concordant, both float64 (samples,).

    A pair is comparable if one had the event and the other outlived it: a later time, or the same time without the
    event (Harrell et al. 1996, section 5.5). It is concordant if the first has the larger risk, and half if both risks
    are equal. A pair counts with the product of the weights of its patients.

    Args:
        risk: Risks of n patients.
        time: Their times.
        event: Their events.
        weight: (samples, n), several weightings at once; by default one in which everyone counts once.

    Memory grows with n, not with its square, and time with samples * n * log(n): those who are still observed are added
    up by rank of their risk, in a tree of partial sums (Fenwick 1994).
    """
    weight = np.ones((1, len(risk))) if weight is None else weight
    order = np.lexsort((event, -time))
    _, rank = np.unique(risk, return_inverse=True)
    block = max(TREE_NUMBERS // (len(risk) + 1), 1)
    parts = [
        _summed_pairs(
            rank[order], time[order], event[order] == 1, np.ascontiguousarray(weight[start : start + block, order].T)
        )
        for start in range(0, len(weight), block)
    ]
    comparable, concordant = (np.concatenate(found) for found in zip(*parts, strict=True))
    return comparable, concordant


def _summed_pairs(
    rank: NDArray[np.int64], time: NDArray[np.floating], event: NDArray[np.bool_], weight: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`ordered_pairs` of patients from the last time to the first, of one time the censored first; weight (n, s)."""
    ranks = int(rank.max(initial=0)) + 1
    # Of everyone who outlives the patient of the turn: sums by ranges of ranks, by rank, and in all.
    tree, equal = np.zeros((ranks + 1, weight.shape[1])), np.zeros((ranks, weight.shape[1]))
    total, comparable, concordant = (np.zeros(weight.shape[1]) for _ in range(3))
    waiting: list[int] = []
    for turn in range(len(rank)):
        if waiting and time[turn] != time[waiting[0]]:
            for earlier in waiting:
                _add(tree, rank[earlier], weight[earlier])
                equal[rank[earlier]] += weight[earlier]
                total += weight[earlier]
            waiting = []
        if event[turn]:
            comparable += weight[turn] * total
            concordant += weight[turn] * (_below(tree, rank[turn]) + 0.5 * equal[rank[turn]])
            waiting.append(turn)
        else:
            _add(tree, rank[turn], weight[turn])
            equal[rank[turn]] += weight[turn]
            total += weight[turn]
    return comparable, concordant


def _add(tree: NDArray[np.float64], rank: int, weight: NDArray[np.floating]) -> None:
    place = int(rank) + 1
    while place < len(tree):
        tree[place] += weight
        place += place & -place


def _below(tree: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """Sum of the weights of all lower ranks."""
    place, found = int(rank), np.zeros(tree.shape[1])
    while place:
        found += tree[place]
        place -= place & -place
    return found


def concordance(risk: NDArray[np.floating], time: NDArray[np.floating], event: NDArray[np.floating]) -> float:
    """Harrell's C-index of risks (n,), times and events; NaN where no two patients can be compared."""
    comparable, concordant = ordered_pairs(risk, time, event)
    return float(concordant[0] / comparable[0]) if comparable[0] else float("nan")
