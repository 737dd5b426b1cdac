"""Owns what is measured on validation patches while training, and the threshold chosen there."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from histomake.learn.target import UNLABELLED

TOP = 10
POOLINGS = ("mean", "max", "top10")


def classification_scores(scores: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """AUROC (macro, one against the rest), accuracy and balanced accuracy of softmax ``scores`` (n, c).

    ``target`` int64 (n,). AUROC is left out when fewer than two classes are there.
    """
    known = target != UNLABELLED
    scores, target = scores[known], target[known]
    predicted = scores.argmax(axis=1)
    result = {
        "accuracy": float((predicted == target).mean()),
        "balanced_accuracy": float(balanced_accuracy_score(target, predicted)),
    }
    auroc = [roc_auc_score(target == c, scores[:, c]) for c in range(scores.shape[1]) if 0 < (target == c).mean() < 1]
    if auroc:
        result["auroc"] = float(np.mean(auroc))
    return result


def choose_threshold(score: np.ndarray, positive: np.ndarray) -> float:
    """The threshold with the largest sensitivity + specificity (Youden 1950) on validation patches.

    ``score`` float (n,), ``positive`` bool (n,). Halfway to the next lower score, so that equal scores on other
    slides do not sit on the edge; 0.5 when only one class is there.
    """
    if positive.all() or not positive.any():
        return 0.5
    false_rate, true_rate, thresholds = roc_curve(positive, score)
    best = float(thresholds[1 + np.argmax(true_rate[1:] - false_rate[1:])])
    lower = score[score < best]
    return (best + float(lower.max())) / 2 if len(lower) else best


def pool_scores(scores: np.ndarray, how: str, tissue: np.ndarray | None = None) -> np.ndarray:
    """One score per class, float64 (c,), from those of n patches (n, c).

    "mean" of all patches, "area": mean weighted by the patches' ``tissue`` share (n,), "max", or "top10": mean of
    the ten largest (all, when there are fewer).
    """
    if how == "max":
        return scores.max(axis=0)
    if how == "top10":
        return np.sort(scores, axis=0)[-TOP:].mean(axis=0)
    return np.average(scores, axis=0, weights=tissue if how == "area" else None)


def choose_thresholds(scores: np.ndarray, target: np.ndarray, slide: np.ndarray) -> dict[str, Any]:
    """Thresholds of the second of two classes: of patches, and of slides for every way of pooling their patches.

    ``scores`` (n, c), ``target`` int64 (n,), ``slide`` int (n,) of validation patches. Where the validation slides
    are all of one class, slides take the patches' threshold. With more classes nothing is thresholded.
    """
    if scores.shape[1] != 2:
        return {"threshold": 0.5, "slide_thresholds": {}}
    threshold = choose_threshold(scores[:, 1], target == 1)
    slides = [slide == s for s in np.unique(slide)]
    positive = np.array([np.bincount(target[members], minlength=2).argmax() == 1 for members in slides])
    if positive.all() or not positive.any():
        return {"threshold": threshold, "slide_thresholds": dict.fromkeys(POOLINGS, threshold)}
    pooled = {how: np.array([pool_scores(scores[m], how)[1] for m in slides]) for how in POOLINGS}
    chosen = {how: choose_threshold(score, positive) for how, score in pooled.items()}
    return {"threshold": threshold, "slide_thresholds": chosen}
