"""Operating points: thresholds chosen on validation items and applied to test items, with predictive values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import roc_curve

from histomake.base.records.metrics import AtPrevalence, MetricValue, OperatingPoint
from histomake.evaluate import statistics
from histomake.evaluate.items import Items
from histomake.evaluate.sampling import summarise

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL = "model"
"""Aim of the operating point that models have without settings: their own thresholds."""


class UnreachableError(ValueError):
    """No threshold reaches what an operating point is to reach."""


@dataclass(frozen=True)
class Judged:
    """Items of one class against the rest: score float (n,), and whether positive bool (n,)."""

    score: NDArray[np.floating]
    positive: NDArray[np.bool_]


@dataclass(frozen=True)
class Tested:
    """Test items of a level, n of them, and what is measured of each operating point.

    called: bool (n, outputs), what the models decide; shares: float (n, folds), share of each fold's model in the score
    of the item; weights: float (samples, patients), how often each patient counts; prevalences: of positives.
    """

    items: Items
    called: NDArray[np.bool_]
    shares: NDArray[np.floating]
    weights: NDArray[np.floating]
    prevalences: Sequence[float]


def threshold_for(score: NDArray[np.floating], positive: NDArray[np.bool_], measure: str, wanted: float) -> float:
    """The threshold with which items reach a sensitivity or specificity of at least ``wanted``.

    Of all such thresholds it is the one with the largest other measure. It is halfway to the next lower score, so that
    equal scores of other items are not exactly at it. ``score`` float (n,), ``positive`` bool (n,).

    Raises UnreachableError if there are not items of both classes, or if only a threshold above all scores reaches it.
    """
    if not len(score):
        raise UnreachableError("no validation item is predicted and has a label")
    if positive.all() or not positive.any():
        raise UnreachableError(f"the validation set has {'only positives' if positive.any() else 'no positive'}")
    false_rate, true_rate, thresholds = roc_curve(positive, score, drop_intermediate=False)
    reached = true_rate if measure == "sensitivity" else 1 - false_rate
    # Rates are quotients of counts: a value that is wanted exactly may be missed by rounding.
    enough = np.flatnonzero(reached >= wanted - 1e-9)
    # Thresholds fall, so that sensitivity rises and specificity falls from the first to the last.
    chosen = enough[0] if measure == "sensitivity" else enough[-1]
    if chosen == 0:
        raise UnreachableError(
            f"on the validation set, {measure} {wanted:g} is reached only if nothing is called positive"
        )
    found = float(thresholds[chosen])
    lower = score[score < found]
    return (found + float(lower.max())) / 2 if len(lower) else found


def operating_points(
    tested: Tested, validation: Mapping[int, Items], names: Sequence[str], wanted: Mapping[str, float]
) -> dict[str, list[OperatingPoint]]:
    """Operating points of the items of a level by class: that of the models themselves, then those ``wanted``.

    ``validation``: validation items of the same level, by fold, in the order of ``tested.shares``. Of two exclusive
    classes only the second one has operating points. Intervals take thresholds as fixed.
    """
    found = {}
    for number, name in judged_outputs(tested.items, names):
        metrics, at_prevalence = _measured(tested, number, tested.called[:, number])
        points = [OperatingPoint(aim=MODEL, metrics=metrics, at_prevalence=at_prevalence)]
        chosen_on = {fold: judged(items, number)[0] for fold, items in validation.items()}
        points += [_chosen(tested, number, chosen_on, *aim) for aim in wanted.items()]
        found[name] = points
    return found


def _chosen(
    tested: Tested, number: int, validation: Mapping[int, Judged], measure: str, wanted: float
) -> OperatingPoint:
    """An operating point whose threshold is chosen on the validation items of each fold."""
    positives = sum(int(one.positive.sum()) for one in validation.values())
    negatives = sum(int((~one.positive).sum()) for one in validation.values())
    thresholds, reached = {}, []
    for fold, one in validation.items():
        try:
            thresholds[fold] = threshold_for(one.score, one.positive, measure, wanted)
        except UnreachableError as error:
            return OperatingPoint(
                aim=measure,
                wanted=wanted,
                refused=f"fold {fold}: {error}",
                positives=positives,
                negatives=negatives,
            )
        right = (one.score >= thresholds[fold]) == one.positive
        reached.append(float(right[one.positive == (measure == "sensitivity")].mean()))
    limit = tested.shares @ np.array(list(thresholds.values()))
    metrics, at_prevalence = _measured(tested, number, tested.items.score[:, number] >= limit)
    return OperatingPoint(
        aim=measure,
        wanted=wanted,
        thresholds={str(fold): value for fold, value in thresholds.items()},
        reached=float(np.mean(reached)),
        positives=positives,
        negatives=negatives,
        metrics=metrics,
        at_prevalence=at_prevalence,
    )


def _measured(
    tested: Tested, number: int, called: NDArray[np.bool_]
) -> tuple[dict[str, MetricValue], list[AtPrevalence]]:
    """Rates and predictive values on the test items, where ``called`` (n,) says which are called positive."""
    one, known = judged(tested.items, number)
    confusion = statistics.confusion_counts(
        one.positive.astype(np.int64),
        called[known].astype(np.int64),
        tested.items.patient[known],
        tested.weights,
        classes=2,
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = statistics.rates(confusion, 1)
        found = {name: rates[name] for name in ("sensitivity", "specificity")} | statistics.predictive(confusion, 1)
        values = [(share, statistics.predictive_at(share, rates)) for share in tested.prevalences]
    at = [AtPrevalence(prevalence=share, **{k: summarise(v) for k, v in both.items()}) for share, both in values]
    return {name: summarise(each) for name, each in found.items()}, at


def judged_outputs(items: Items, names: Sequence[str]) -> list[tuple[int, str]]:
    """Number and name of each output; of two exclusive classes the second one alone."""
    skipped = 1 if len(names) == 2 and items.target.ndim == 1 else 0
    return list(enumerate(names))[skipped:]


def judged(items: Items, number: int) -> tuple[Judged, NDArray[np.bool_]]:
    """The items whose truth of output ``number`` is known, and which these are: bool (n,)."""
    if items.target.ndim == 1:
        known, positive = np.ones(len(items), bool), items.target == number
    else:
        known, positive = ~np.isnan(items.target[:, number]), items.target[:, number] > 0.5
    return Judged(items.score[known, number], positive[known]), known


def decisions(items: Items, outputs: int) -> NDArray[np.bool_]:
    """What the models decide, bool (n, outputs)."""
    if items.predicted.ndim == 1:
        return np.asarray(items.predicted[:, None] == np.arange(outputs))
    return items.predicted.astype(bool)


def shares_of_folds(level: str, items: Items, tested: Sequence[tuple[int, int]], folds: Sequence[int]) -> np.ndarray:
    """Share of each fold's model in the score of each item, float (n, folds); ``tested``: patient and fold of slides.

    A patient's score is the mean over slides, and over folds where several models have predicted them.
    """
    if level != "patient":
        return np.asarray(items.fold[:, None] == np.array(folds), float)
    patients = max(items.patient, default=-1) + 1
    counts = np.zeros((max(patients, 1 + max((p for p, _ in tested), default=-1)), len(folds)))
    for patient, fold in tested:
        counts[patient, folds.index(fold)] += 1
    return (counts / np.maximum(counts.sum(1, keepdims=True), 1))[items.patient]
