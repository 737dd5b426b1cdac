"""Owns how patches' scores become one, and what a score decides; apart from training, so that no torch is loaded."""

from __future__ import annotations

import numpy as np

TOP = 10
POOLINGS = ("mean", "area", "max", "top10")


def pool_scores(scores: np.ndarray, how: str, tissue: np.ndarray) -> np.ndarray:
    """One score per output, float64 (c,), from those of n patches (n, c).

    "mean" of all patches, "area": mean weighted by the patches' ``tissue`` share (n,), "max", or "top10": mean of
    the ten largest (all, when there are fewer).
    """
    if how == "max":
        return scores.max(axis=0)
    if how == "top10":
        return np.sort(scores, axis=0)[-TOP:].mean(axis=0)
    return np.average(scores, axis=0, weights=tissue if how == "area" else None)


def decide(scores: np.ndarray, threshold: float | list[float], *, multi_label: bool) -> np.ndarray:
    """Class int64 (n,): of two, the second from the threshold up; of more, the largest. Several labels: bool (n, c)."""
    if multi_label:
        return scores >= np.asarray(threshold)
    if scores.shape[1] == 2:
        return (scores[:, 1] >= threshold).astype(np.int64)
    return scores.argmax(axis=1)
