"""Metric functions on weighted sums over patients, computed for many weightings of patients at once.

Inputs have a leading axis of weightings (samples): the first is the data, the others are bootstrap resamples. A
metric that is not defined for a sample is NaN there.
"""

from __future__ import annotations

import numpy as np

SCORE_BINS = 2048
CALIBRATION_BINS = 15


def weighted_sums(values: np.ndarray, patient: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of ``values`` (n, …) over items, each counted as often as its patient: (samples, …).

    ``patient`` int (n,) indexes the columns of ``weights`` (samples, patients).
    """
    by_patient = np.zeros((weights.shape[1], *values.shape[1:]))
    np.add.at(by_patient, patient, values)
    return np.tensordot(weights, by_patient, axes=1)


def confusion_counts(
    label: np.ndarray, predicted: np.ndarray, patient: np.ndarray, weights: np.ndarray, *, classes: int
) -> np.ndarray:
    """Weighted counts (samples, true class, predicted class) of int ``label``, ``predicted`` (n,)."""
    cell = (patient * classes + label) * classes + predicted
    counts = np.bincount(cell, minlength=weights.shape[1] * classes**2).reshape(weights.shape[1], -1)
    return (weights @ counts).reshape(-1, classes, classes)


def rates(confusion: np.ndarray, i: int) -> dict[str, np.ndarray]:
    """Sensitivity, specificity and F1 of class ``i`` against the rest, each (samples,)."""
    hit = confusion[:, i, i]
    true, called, total = confusion[:, i].sum(1), confusion[:, :, i].sum(1), confusion.sum((1, 2))
    return {
        "sensitivity": hit / true,
        "specificity": (total - true - called + hit) / (total - true),
        "f1": 2 * hit / (true + called),
    }


def predictive(confusion: np.ndarray, i: int) -> dict[str, np.ndarray]:
    """Predictive values of a call (PPV) and of no call (NPV) of class ``i`` against the rest, each (samples,)."""
    hit, true, called, total = (
        confusion[:, i, i],
        confusion[:, i].sum(1),
        confusion[:, :, i].sum(1),
        confusion.sum((1, 2)),
    )
    return {"ppv": hit / called, "npv": (total - true - called + hit) / (total - called)}


def predictive_at(prevalence: float, rates: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PPV and NPV (samples,) of a sensitivity and specificity at a prevalence, by Bayes' theorem.

    Altman & Bland 1994, Diagnostic tests 2: predictive values.
    """
    sensitivity, specificity = rates["sensitivity"], rates["specificity"]
    called = sensitivity * prevalence + (1 - specificity) * (1 - prevalence)
    left = (1 - sensitivity) * prevalence + specificity * (1 - prevalence)
    return {"ppv": sensitivity * prevalence / called, "npv": specificity * (1 - prevalence) / left}


def overall(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, balanced accuracy and Matthews correlation over all classes, each (samples,)."""
    recall = np.diagonal(confusion, axis1=1, axis2=2) / confusion.sum(2)
    return {
        "accuracy": np.trace(confusion, axis1=1, axis2=2) / confusion.sum((1, 2)),
        "balanced_accuracy": recall.mean(1),
        "mcc": matthews(confusion),
    }


def score_histograms(
    score: np.ndarray, positive: np.ndarray, patient: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted counts of positives and of negatives over ascending scores, each (samples, bins).

    One bin per distinct score up to SCORE_BINS of them, and quantile bins beyond: scores in one bin count as a tie,
    which changes an area by less than one part in SCORE_BINS.
    """
    edges = score_edges(score)
    bins = score_ranks(score, edges)
    cell = patient * len(edges) + bins
    size = weights.shape[1] * len(edges)
    pos, neg = (np.bincount(cell[chosen], minlength=size).reshape(-1, len(edges)) for chosen in (positive, ~positive))
    return weights @ pos, weights @ neg


def score_edges(score: np.ndarray) -> np.ndarray:
    """Lower edges of the bins of scores (n,), ascending: the distinct scores, or SCORE_BINS quantiles of more."""
    edges = np.unique(score)
    if len(edges) > SCORE_BINS:
        edges = np.unique(np.quantile(score, np.linspace(0, 1, SCORE_BINS), method="lower"))
    return edges


def score_ranks(score: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Number of the bin of each score, int64 (n,)."""
    return np.searchsorted(edges, score, side="right") - 1


def area_under_roc(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Probability that a positive scores above a negative, ties half (Mann-Whitney U / nm); inputs (samples, bins)."""
    below = np.cumsum(negative, axis=1) - negative
    pairs = (positive * (below + negative / 2)).sum(1)
    return pairs / (positive.sum(1) * negative.sum(1))


def average_precision(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Area under the precision-recall steps, Σ (Rᵢ − Rᵢ₋₁) Pᵢ; inputs (samples, bins) by ascending score."""
    hits = np.cumsum(positive[:, ::-1], axis=1)
    called = hits + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return (positive[:, ::-1] * precision).sum(1) / positive.sum(1)


def matthews(confusion: np.ndarray) -> np.ndarray:
    """Matthews correlation for any number of classes (Gorodkin 2004) of (samples, true, predicted)."""
    total = confusion.sum((1, 2))
    right = np.trace(confusion, axis1=1, axis2=2)
    true, called = confusion.sum(2), confusion.sum(1)
    numerator = right * total - (true * called).sum(1)
    return numerator / np.sqrt((total**2 - (called**2).sum(1)) * (total**2 - (true**2).sum(1)))


def calibration_sums(confidence: np.ndarray, right: np.ndarray, patient: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Count, sum of confidence and number right per bin of confidence, (samples, 3, CALIBRATION_BINS)."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    cell, size = patient * CALIBRATION_BINS + bins, weights.shape[1] * CALIBRATION_BINS
    sums = [np.bincount(cell, weights=w, minlength=size) for w in (None, confidence, right)]
    return np.stack([weights @ s.reshape(-1, CALIBRATION_BINS) for s in sums], axis=1)


def calibration_error(bins: np.ndarray) -> np.ndarray:
    """Expected calibration error (Naeini et al. 2015): mean |accuracy − confidence| over bins, by their counts."""
    return np.abs(bins[:, 2] - bins[:, 1]).sum(1) / bins[:, 0].sum(1)


def regression_errors(
    value: np.ndarray, target: np.ndarray, patient: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Mean absolute and root mean square error, R² and Pearson's r of ``value``, ``target`` (n,), each (samples,)."""
    parts = [np.ones_like(value), np.abs(value - target), (value - target) ** 2]
    parts += [target, target**2, value, value**2, value * target]
    count, absolute, square, y, yy, v, vv, vy = weighted_sums(np.stack(parts, 1), patient, weights).T
    spread = yy - y**2 / count
    return {
        "mae": absolute / count,
        "rmse": np.sqrt(square / count),
        "r2": np.where(spread > 1e-12 * yy, 1 - square / spread, np.nan),
        "pearson": (vy - v * y / count) / np.sqrt(spread * (vv - v**2 / count)),
    }


def overlaps(counts: np.ndarray, patient: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Dice and IoU of the pixels of all items together, from ``counts`` (n, 3): tp, fp, fn."""
    hit, false, missed = weighted_sums(counts.astype(np.float64), patient, weights).T
    return {"dice": 2 * hit / (2 * hit + false + missed), "iou": hit / (hit + false + missed)}


def mean_overlaps(counts: np.ndarray, patient: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Mean over items of each one's Dice and IoU; items that have the class neither in truth nor in prediction are left
    out."""
    hit, false, missed = counts.astype(np.float64).T
    union = hit + false + missed
    found = union > 0
    each = np.stack([2 * hit / (union + hit), hit / union, np.ones_like(hit)], 1)[found]
    dice, iou, count = weighted_sums(each, patient[found], weights).T
    return {"dice": dice / count, "iou": iou / count}


def pixel_rates(counts: np.ndarray) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Rates of each class against the rest, and accuracy over all classes, each (n,), from ``counts`` (n, classes, 3).

    Counts are tp, fp and fn of the pixels of known truth, each of which is of one class.
    """
    hit, false, missed = np.moveaxis(counts.astype(np.float64), 2, 0)
    true, total = hit + missed, (hit + missed).sum(1)
    each = [
        {
            "accuracy": (total - false[:, i] - missed[:, i]) / total,
            "sensitivity": hit[:, i] / true[:, i],
            "specificity": (total - true[:, i] - false[:, i]) / (total - true[:, i]),
        }
        for i in range(counts.shape[1])
    ]
    return each, {"accuracy": hit.sum(1) / total}


def mean_of(values: np.ndarray, patient: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean (samples,) of the values (n,) that are not NaN, each counted as often as its patient."""
    known = ~np.isnan(values)
    each = np.stack([values[known], np.ones(int(known.sum()))], 1)
    total, count = weighted_sums(each, patient[known], weights).T
    return total / count
