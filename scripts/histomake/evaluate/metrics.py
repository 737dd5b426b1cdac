"""Metrics of evaluated items, as functions of sums over patients.

A bootstrap sample is a count of how often each patient was drawn (Efron & Tibshirani 1993, ch. 8: resample the unit
that is independent). So all samples are one matrix product, and a thousand of them take about a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from histomake.evaluate import statistics
from histomake.evaluate.calibration import calibration
from histomake.evaluate.items import Items

Values = dict[tuple[str, str], np.ndarray]
"""Metrics by (class, name), each (1 + bootstraps,): the data's value first. Class "" is the whole."""


def _by_class(names: Sequence[str], each: list[dict[str, np.ndarray]]) -> Values:
    """Metrics of every class, and their mean over the classes where they are defined."""
    found: Values = {(name, key): values for name, one in zip(names, each, strict=True) for key, values in one.items()}
    for key in each[0]:
        stacked = np.ma.masked_invalid([one[key] for one in each])
        found["", key] = stacked.mean(axis=0).filled(np.nan)
    return found


def class_metrics(level: str, items: Items, names: Sequence[str], weights: np.ndarray) -> Values:
    """Metrics of a classification.

    With two classes the whole is about the second, the positive one; with more it is the mean over classes.
    """
    confusion = statistics.confusion_counts(items.target, items.predicted, items.patient, weights, classes=len(names))
    each, sampled = [], (items.patient, weights)
    for i in range(len(names)):
        histograms = statistics.score_histograms(items.score[:, i], items.target == i, items.patient, weights)
        rates = statistics.rates(confusion, i) | calibration(items.score[:, i], items.target == i, *sampled)
        each.append(_areas(*histograms) | rates)
    found = _by_class(names, each)
    if len(names) == 2:
        found |= {("", key): values for key, values in each[1].items()}
    found |= {("", key): values for key, values in statistics.overall(confusion).items()}
    right = items.score.argmax(1) == items.target
    bins = statistics.calibration_sums(items.score.max(1), right, items.patient, weights)
    found["", "ece"] = statistics.calibration_error(bins)
    return found


def _areas(positive: np.ndarray, negative: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "auroc": statistics.area_under_roc(positive, negative),
        "auprc": statistics.average_precision(positive, negative),
    }


def label_metrics(level: str, items: Items, names: Sequence[str], weights: np.ndarray) -> Values:
    """Metrics of several labels, each present or absent."""
    return _by_class(names, [_one_label(items, i, weights) for i in range(len(names))])


def _one_label(items: Items, i: int, weights: np.ndarray) -> dict[str, np.ndarray]:
    known = ~np.isnan(items.target[:, i])
    score, patient = items.score[known, i], items.patient[known]
    truth, called = items.target[known, i] > 0.5, items.predicted[known, i].astype(np.int64)
    confusion = statistics.confusion_counts(truth.astype(np.int64), called, patient, weights, classes=2)
    confidence = np.maximum(score, 1 - score)
    bins = statistics.calibration_sums(confidence, (score > 0.5) == truth, patient, weights)
    areas = _areas(*statistics.score_histograms(score, truth, patient, weights))
    return {
        **areas,
        **statistics.rates(confusion, 1),
        **statistics.overall(confusion),
        **calibration(score, truth, patient, weights),
        "ece": statistics.calibration_error(bins),
    }


def number_metrics(level: str, items: Items, names: Sequence[str], weights: np.ndarray) -> Values:
    """Errors of a regression."""
    return _by_class(names, [_number_errors(items, i, weights) for i in range(len(names))])


def _number_errors(items: Items, i: int, weights: np.ndarray) -> dict[str, np.ndarray]:
    known = ~np.isnan(items.target[:, i])
    return statistics.regression_errors(
        items.score[known, i], items.target[known, i].astype(np.float64), items.patient[known], weights
    )


def overlap_metrics(level: str, items: Items, names: Sequence[str], weights: np.ndarray) -> Values:
    """Overlaps and pixel rates of a segmentation: of all pixels together, or as the mean over slides or patients.

    Rates are those of each class against the rest; the accuracy of the whole is that over all classes.
    """
    together = level == "pixel"
    pool = statistics.overlaps if together else statistics.mean_overlaps
    each = [pool(items.score[:, i], items.patient, weights) for i in range(len(names))]
    counts = statistics.weighted_sums(items.score, items.patient, weights) if together else items.score
    rates, whole = statistics.pixel_rates(counts)

    def pooled(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if together:
            return found
        return {key: statistics.mean_of(values, items.patient, weights) for key, values in found.items()}

    values = _by_class(names, [one | pooled(rate) for one, rate in zip(each, rates, strict=True)])
    return values | {("", key): found for key, found in pooled(whole).items()}
