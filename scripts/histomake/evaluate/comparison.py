"""Paired comparison of two tasks on the same test slides and patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from histomake.base.errors import HistomakeError
from histomake.base.kinds import Kind
from histomake.base.patient_bootstrap import BOOTSTRAPS, INTERVAL, patient_weights
from histomake.base.records.comparison import ComparisonRecord
from histomake.base.records.metrics import ComparedLevel, MetricDifference, PatientTruth
from histomake.config import Target
from histomake.evaluate.delong import compare_areas
from histomake.evaluate.items import Items, SlidePrediction
from histomake.evaluate.kinds import EVALUATED
from histomake.evaluate.patient_truth import REFUSE
from histomake.evaluate.sampling import summarise
from histomake.target.outputs import outputs_of

COMPARED = ("slide", "patient")
"""Levels that are compared: patches of two tasks may be of different grids."""

Tested = tuple[str, Sequence[SlidePrediction], str]
"""Name of a task, its predictions of test slides, and how it pools patches."""


def compare(
    first: Tested,
    second: Tested,
    *,
    kind: Kind,
    target: Target,
    seed: int,
    patient_truth: PatientTruth = REFUSE,
    bootstraps: int = BOOTSTRAPS,
) -> ComparisonRecord:
    """Compare two tasks that predict the same targets, on the test slides that they have in common.

    Both are measured with the same bootstrap samples of patients, so that what is common to both cancels out. Raises
    HistomakeError if they have no test slide in common, or their truths differ.
    """
    tested = [{p.slide_id: p for p in predictions if p.table.num_rows} for _, predictions, _ in (first, second)]
    common = sorted(tested[0].keys() & tested[1].keys())
    if not common:
        raise HistomakeError(
            f"tasks {first[0]} and {second[0]} have no test slide in common; give both the same roles with the column "
            "split of the sheet, or the same split and seed"
        )
    everything = {p.slide_id for _, predictions, _ in (first, second) for p in predictions}
    patients = sorted({tested[0][slide].patient_id for slide in common})
    evaluated, names = EVALUATED[kind], outputs_of(kind, target)
    rule = evaluated.patient_truth[patient_truth]
    both = [
        evaluated.items([by_slide[slide] for slide in common], kind, target, patients, pooling, rule)
        for by_slide, (_, _, pooling) in zip(tested, (first, second), strict=True)
    ]
    levels = {}
    for level in COMPARED:
        pair = (both[0][level], both[1][level])
        if len(pair[0]) != len(pair[1]) or not np.array_equal(pair[0].target, pair[1].target, equal_nan=True):
            raise HistomakeError(
                f"tasks {first[0]} and {second[0]} have different truths of the same {level}s, and cannot be compared"
            )
        if len(pair[0]):
            levels[level] = _compared(level, pair, kind, names, len(patients), seed=seed, bootstraps=bootstraps)
    return ComparisonRecord(
        first=first[0],
        second=second[0],
        kind=kind,
        seed=seed,
        bootstraps=bootstraps,
        interval_percent=INTERVAL,
        slides=len(common),
        patients=len(patients),
        left_out=sorted(everything - set(common)),
        levels=levels,
    )


def _compared(
    level: str,
    pair: tuple[Items, Items],
    kind: Kind,
    names: Sequence[str],
    patients: int,
    *,
    seed: int,
    bootstraps: int,
) -> ComparedLevel:
    weights = patient_weights(pair[0].patient, patients, seed=seed, bootstraps=bootstraps)
    measure = EVALUATED[kind].metrics
    with np.errstate(invalid="ignore", divide="ignore"):
        found = [measure(level, items, names, weights) for items in pair]
    # Slides of one patient are not independent, as the test supposes.
    delong = _delong(pair, names) if level == "patient" and ("", "auroc") in found[0] else {}
    metrics: dict[str, dict[str, MetricDifference]] = {}
    for (class_name, metric), values in found[0].items():
        others = found[1][class_name, metric]
        p = delong.get(class_name) if metric == "auroc" else None
        metrics.setdefault(class_name or "all", {})[metric] = _difference(values, others, p)
    return ComparedLevel(count=len(pair[0]), metrics=metrics)


def _difference(first: np.ndarray, second: np.ndarray, p_delong: float | None) -> MetricDifference:
    difference = first - second
    samples = difference[1:][np.isfinite(difference[1:])]
    p = None
    if len(samples) and np.isfinite(difference[0]):
        # With one more sample than there are, so that no p is zero (Davison & Hinkley 1997, ch. 4).
        tails = [(1 + (samples <= 0).sum()) / (1 + len(samples)), (1 + (samples >= 0).sum()) / (1 + len(samples))]
        p = float(min(1.0, 2 * min(tails)))
    return MetricDifference(
        first=_finite(first[0]),
        second=_finite(second[0]),
        difference=summarise(difference),
        p_bootstrap=p,
        p_delong=p_delong,
    )


def _delong(pair: tuple[Items, Items], names: Sequence[str]) -> Mapping[str, float]:
    """p of DeLong's test by class; of two classes also for the whole, which is about the second."""
    found: dict[str, float] = {}
    truth = pair[0].target
    for i, name in enumerate(names):
        positive = truth == i if truth.ndim == 1 else truth[:, i] > 0.5
        known = np.ones(len(truth), bool) if truth.ndim == 1 else ~np.isnan(truth[:, i])
        scores = np.stack([items.score[known, i] for items in pair])
        if positive[known].any() and not positive[known].all():
            p = compare_areas(scores, positive[known]).p
            if np.isfinite(p):
                found[name] = p
    if len(names) == 2 and truth.ndim == 1 and names[1] in found:
        found[""] = found[names[1]]
    return found


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
