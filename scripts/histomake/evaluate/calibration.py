"""Calibration of probabilities, and the net benefit of acting on them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from histomake.evaluate.operating import judged, judged_outputs
from histomake.evaluate.result import Evaluation

PROBABILITY_BINS = 100
"""Bins of the logit of a probability, in which items are fitted together: a slope changes by about a percent."""

LARGEST_LOGIT = 14.0
"""Probabilities nearer to 0 or 1 than one in a million are taken as that near."""

ITERATIONS = 15
THRESHOLDS = np.arange(1, 100) / 100
"""Threshold probabilities of a decision curve."""


def calibration(
    score: np.ndarray, positive: np.ndarray, patient: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Calibration in the large and calibration slope of probabilities, each (samples,).

    The intercept and the slope of logistic models of the truth, the first with the logit of the probability as offset
    (Cox 1958; Steyerberg, Clinical prediction models, ch. 15). A perfect model has 0 and 1. Both are NaN with one
    class only, and the slope where the classes do not overlap, because it is then infinite.

    ``score`` float (n,) in [0, 1], ``positive`` bool (n,), ``patient`` int (n,): columns of ``weights`` (samples, p).
    """
    edge = 1 / (1 + np.exp(LARGEST_LOGIT))
    chance = np.clip(score, edge, 1 - edge)
    logit = np.log(chance / (1 - chance))
    values, where = np.unique(logit, return_inverse=True)
    if len(values) > PROBABILITY_BINS:
        edges = np.quantile(logit, np.linspace(0, 1, PROBABILITY_BINS + 1)[1:-1])
        where = np.unique(edges.searchsorted(logit), return_inverse=True)[1]
        values = np.bincount(where, logit) / np.bincount(where)
    size = weights.shape[1] * len(values)
    cell = patient * len(values) + where
    counts = [np.bincount(cell[chosen], minlength=size).reshape(-1, len(values)) for chosen in (positive, ~positive)]
    hits, total = weights @ counts[0], weights @ (counts[0] + counts[1])
    both = (hits.sum(1) > 0) & (hits.sum(1) < total.sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        large, _ = _fit(values, hits, total, slope=False)
        _, slope = _fit(values, hits, total, slope=True)
    return {
        "calibration_in_the_large": np.where(both, large, np.nan),
        "calibration_slope": np.where(both, slope, np.nan),
    }


def _fit(logit: np.ndarray, hits: np.ndarray, total: np.ndarray, *, slope: bool) -> tuple[np.ndarray, np.ndarray]:
    """Intercepts and slopes (samples,) of logistic models with the largest likelihood, NaN where it has no maximum.

    Newton's method for all samples at once: scikit-learn would fit a thousand models one after the other. ``logit``
    (bins,), ``hits`` and ``total`` (samples, bins). Without ``slope`` it stays 1.
    """
    intercept, gradient = np.zeros(len(hits)), np.ones(len(hits))
    step = np.full(len(hits), np.inf)
    for _ in range(ITERATIONS):
        expected = 1 / (1 + np.exp(-np.clip(intercept[:, None] + gradient[:, None] * logit, -30, 30)))
        residual, weight = hits - total * expected, total * expected * (1 - expected)
        first, information = residual.sum(1), weight.sum(1)
        if slope:
            second, mixed, square = residual @ logit, weight @ logit, weight @ logit**2
            determinant = information * square - mixed**2
            change = (square * first - mixed * second) / determinant
            turn = (information * second - mixed * first) / determinant
            # Full steps may leave the region in which the method converges.
            gradient = gradient + np.clip(np.nan_to_num(turn), -2, 2)
        else:
            change, turn = first / information, np.zeros(len(hits))
        intercept = intercept + np.clip(np.nan_to_num(change), -2, 2)
        step = np.abs(change) + np.abs(turn)
    converged = step < 1e-6
    return np.where(converged, intercept, np.nan), np.where(converged, gradient, np.nan)


def decision_curve_points(evaluation: Evaluation, level: str) -> pd.DataFrame:
    """Columns class, threshold, net_benefit, treat_all: at threshold probabilities of 0.01 to 0.99.

    Net benefit (Vickers & Elkin 2006): true positives minus false positives weighted by the odds of the threshold, per
    item. Acting on no item has a net benefit of 0. Of two exclusive classes only the second one has a curve.
    """
    items, names = evaluation.items[level], evaluation.classes
    found = [pd.DataFrame(columns=["class", "threshold", "net_benefit", "treat_all"])]
    for number, name in judged_outputs(items, names):
        one, _ = judged(items, number)
        if len(one.score):
            benefit = net_benefit(one.score, one.positive)
            treat_all = net_benefit(np.ones(len(one.score)), one.positive)
            columns = {"class": name, "threshold": THRESHOLDS, "net_benefit": benefit, "treat_all": treat_all}
            found.append(pd.DataFrame(columns))
    return pd.concat(found[1:], ignore_index=True) if len(found) > 1 else found[0]


def net_benefit(score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Net benefit at each of THRESHOLDS of acting on scores float (n,) of at least that; ``positive``: bool (n,)."""
    calls = [len(group) - np.sort(group).searchsorted(THRESHOLDS) for group in (score[positive], score[~positive])]
    return (calls[0] - calls[1] * THRESHOLDS / (1 - THRESHOLDS)) / len(score)
