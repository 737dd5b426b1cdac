"""Pooling of patch scores into one score, and decisions from scores. Imports no torch, unlike training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOP = 10
POOLINGS = ("mean", "area", "max", "top10")

type Threshold = float | list[float] | NDArray[np.floating]
"""Threshold of the second of two classes, or one per label."""


def pool_scores(scores: NDArray[np.floating], how: str, tissue: NDArray[np.floating]) -> NDArray[np.floating]:
    """One score per output, float (c,), from those of n patches (n, c).

    "mean" of all patches, "area": mean weighted by the patches' ``tissue`` share (n,), "max", or "top10": mean of
    the ten largest (all, when there are fewer).
    """
    if how == "max":
        return scores.max(axis=0)
    if how == "top10":
        return np.sort(scores, axis=0)[-TOP:].mean(axis=0)
    return np.average(scores, axis=0, weights=tissue if how == "area" else None)


def decide_class(scores: NDArray[np.floating], threshold: Threshold) -> NDArray[np.int64]:
    """Class int64 (n,) from scores (n, c): of two, the second from the threshold up; of more, the largest."""
    if scores.shape[1] == 2:
        return (scores[:, 1] >= threshold).astype(np.int64)
    return scores.argmax(axis=1)


def decide_labels(scores: NDArray[np.floating], threshold: Threshold) -> NDArray[np.bool_]:
    """Labels bool (n, c) from scores (n, c): each from its own threshold up."""
    return scores >= np.asarray(threshold)
