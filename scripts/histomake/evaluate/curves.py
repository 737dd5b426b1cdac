"""Points of an evaluation's figures. They are drawn, and written next to the figure as CSV."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

from histomake.evaluate import statistics
from histomake.evaluate.items import Items
from histomake.evaluate.result import Evaluation

CURVE_POINTS = 1000
"""Points of a curve that are kept; more cannot be seen."""

MAX_DOTS = 5000
"""Dots of a scatter plot, evenly taken from all of them."""

Points = Callable[[Evaluation, str], pd.DataFrame | None]
"""What a figure shows of one level. None: it shows nothing of this evaluation, and is not drawn."""


def roc_points(evaluation: Evaluation, level: str) -> pd.DataFrame:
    """Columns class, threshold, false_positive_rate, sensitivity."""
    parts = [pd.DataFrame(columns=["class", "threshold", "false_positive_rate", "sensitivity"])]
    for name, truth, score in _drawn_classes(evaluation.items[level], evaluation.classes):
        false, true, threshold = _thin(*roc_curve(truth, score))
        found = {"class": name, "threshold": threshold, "false_positive_rate": false, "sensitivity": true}
        parts.append(pd.DataFrame(found))
    return _joined(parts)


def precision_recall_points(evaluation: Evaluation, level: str) -> pd.DataFrame:
    """Columns class, threshold (none for the end where nothing is called), recall, precision."""
    parts = [pd.DataFrame(columns=["class", "threshold", "recall", "precision"])]
    for name, truth, score in _drawn_classes(evaluation.items[level], evaluation.classes):
        precision, recall, threshold = precision_recall_curve(truth, score)
        precision, recall, threshold = _thin(precision, recall, np.append(threshold, np.nan))
        found = {"class": name, "threshold": threshold, "recall": recall, "precision": precision}
        parts.append(pd.DataFrame(found))
    return _joined(parts)


def reliability_points(evaluation: Evaluation, level: str) -> pd.DataFrame:
    """Columns confidence, accuracy and count, by bin of confidence (Guo et al. 2017, figure 1)."""
    items = evaluation.items[level]
    if items.target.ndim == 1:
        confidence, right = items.score.max(1), items.score.argmax(1) == items.target
    else:
        known = ~np.isnan(items.target)
        score = items.score[known]
        confidence, right = np.maximum(score, 1 - score), (score > 0.5) == (items.target[known] > 0.5)
    one = np.zeros(len(confidence), np.int64)
    count, sums, hits = statistics.calibration_sums(confidence, right, one, np.ones((1, 1)))[0]
    seen = count > 0
    found = {"confidence": sums[seen] / count[seen], "accuracy": hits[seen] / count[seen]}
    return pd.DataFrame(found | {"count": count[seen].astype(int)})


def confusion_points(evaluation: Evaluation, level: str) -> pd.DataFrame:
    """Columns true, predicted, count, and share of those truly of the class."""
    names = evaluation.classes
    counts = np.array(evaluation.record.levels[level].confusion)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    found = {"true": np.repeat(names, len(names)), "predicted": np.tile(names, len(names))}
    return pd.DataFrame(found | {"count": counts.ravel(), "share": share.ravel()})


def scatter_points(evaluation: Evaluation, level: str) -> pd.DataFrame:
    """Columns class, true, predicted: at most MAX_DOTS of each output."""
    items, parts = evaluation.items[level], [pd.DataFrame(columns=["class", "true", "predicted"])]
    for i, name in enumerate(evaluation.classes):
        known = np.flatnonzero(~np.isnan(items.target[:, i]))
        rows = known[:: -(-len(known) // MAX_DOTS) or 1]
        parts.append(pd.DataFrame({"class": name, "true": items.target[rows, i], "predicted": items.score[rows, i]}))
    return _joined(parts)


def overlap_points(evaluation: Evaluation, level: str) -> pd.DataFrame:
    """Columns class, dice, low, high; none where it is not defined."""
    metrics = evaluation.record.levels[level].metrics
    dice = {name: metrics[name]["dice"] for name in evaluation.classes}
    rows = [(name, found.value, found.low, found.high) for name, found in dice.items()]
    return pd.DataFrame(rows, columns=["class", "dice", "low", "high"]).astype(
        dict.fromkeys(["dice", "low", "high"], float)
    )


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Frames one below the other; the first, which is empty, gives the columns where there is no other."""
    return pd.concat(parts[1:], ignore_index=True) if len(parts) > 1 else parts[0]


def _drawn_classes(items: Items, classes: list[str]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, truth bool (n,) and score (n,) of each class worth a curve: of two classes only the positive one."""
    found = []
    for i, name in enumerate(classes):
        if len(classes) == 2 and items.target.ndim == 1 and i == 0:
            continue
        known = np.ones(len(items), bool) if items.target.ndim == 1 else ~np.isnan(items.target[:, i])
        truth = items.target == i if items.target.ndim == 1 else items.target[:, i] > 0.5
        if truth[known].any() and not truth[known].all():
            found.append((name, truth[known], items.score[known, i]))
    return found


def _thin(*curve: np.ndarray) -> list[np.ndarray]:
    chosen = np.unique(np.linspace(0, len(curve[0]) - 1, CURVE_POINTS).astype(int))
    return [line[chosen] for line in curve]
