"""Evaluation of predictions: metrics per patch, slide and patient, with bootstrap intervals by patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from histomake.base.errors import HistomakeError
from histomake.base.kinds import Kind
from histomake.base.records.metrics import LevelMetrics, MetricsRecord, MetricValue, PatientTruth
from histomake.base.rng import ORDER, counter_rng
from histomake.config import Target
from histomake.evaluate import statistics
from histomake.evaluate.items import Items, SlidePrediction, differing
from histomake.evaluate.kinds import EVALUATED
from histomake.evaluate.patient_truth import OF_CLASSES, REFUSE
from histomake.evaluate.result import Evaluation, MetricRow
from histomake.target.outputs import outputs_of

BOOTSTRAPS = 1000
INTERVAL = (2.5, 97.5)
REFUSED = (
    "{number} test patient(s) have slides of several classes, so that their own class is not defined; set "
    "predict.patient_truth of the task to any, all or majority"
)
"""Why the patient level is not evaluated."""


def evaluate(
    predictions: Sequence[SlidePrediction],
    *,
    kind: Kind,
    target: Target,
    aggregate: str,
    seed: int,
    patient_truth: PatientTruth = REFUSE,
    bootstraps: int = BOOTSTRAPS,
) -> Evaluation:
    """Measure predictions of test slides against their truth, at patch, slide and patient level.

    ``patient_truth`` is the rule by which the truth of a patient follows from that of the slides. Where it is to refuse
    and a patient has slides of several classes, the patient level has no items, and its record says why.
    Intervals are percentiles of ``bootstraps`` resamples of patients. A metric that is not defined (one class only)
    is null. Raises HistomakeError when no truth is known.
    """
    patients = sorted({prediction.patient_id for prediction in predictions})
    classes = outputs_of(kind, target)
    evaluated = EVALUATED[kind]
    by_level = evaluated.items(predictions, kind, target, patients, aggregate, evaluated.patient_truth[patient_truth])
    differ: list[str] = []
    if evaluated.patient_truth is OF_CLASSES:
        differ = [patients[number] for number in differing(by_level["slide"])]
    refused = differ if patient_truth == REFUSE else []
    if refused:
        by_level["patient"] = by_level["patient"].none()
    if not any(len(items) for items in by_level.values()):
        raise HistomakeError("no test patch, slide or patient has a label: there is nothing to evaluate against")
    rows: list[MetricRow] = []
    for level, items in by_level.items():
        if len(items):
            weights = patient_weights(items.patient, len(patients), seed=seed, bootstraps=bootstraps)
            with np.errstate(invalid="ignore", divide="ignore"):
                found = evaluated.metrics(level, items, classes, weights)
            rows += [MetricRow(level, *key, summarise(values)) for key, values in found.items()]
    levels = {level: _level_metrics(level, items, classes, rows) for level, items in by_level.items()}
    if refused:
        levels["patient"] = replace(levels["patient"], refused=REFUSED.format(number=len(refused)))
    record = MetricsRecord(
        kind=kind,
        classes=classes,
        seed=seed,
        bootstraps=bootstraps,
        aggregate=aggregate,
        interval_percent=INTERVAL,
        patients=len(patients),
        slides=len(predictions),
        patient_truth=patient_truth,
        patients_of_several_classes=differ,
        levels=levels,
    )
    return Evaluation(record, rows, by_level, classes)


def _level_metrics(level: str, items: Items, classes: list[str], rows: list[MetricRow]) -> LevelMetrics:
    metrics: dict[str, dict[str, MetricValue]] = {}
    for row in rows:
        if row.level == level:
            metrics.setdefault(row.class_name or "all", {})[row.metric] = row.found
    counts = confusion = None
    if items.target.ndim == 1 and items.predicted.ndim == 1 and len(items.predicted):
        one = np.ones((1, items.patient.max() + 1))
        found = statistics.confusion_counts(items.target, items.predicted, items.patient, one, classes=len(classes))
        confusion = found[0].astype(int).tolist()
        counts = {name: int((items.target == i).sum()) for i, name in enumerate(classes)}
    return LevelMetrics(
        count=len(items),
        patients=len(np.unique(items.patient)),
        metrics=metrics,
        confusion=confusion,
        per_class=counts,
    )


def patient_weights(patient: np.ndarray, patients: int, *, seed: int, bootstraps: int) -> np.ndarray:
    """How often each patient counts, float64 (1 + bootstraps, patients): row 0 is the data, the rest resamples.

    Only patients that have items are drawn.
    """
    present = np.unique(patient)
    weights = np.zeros((1 + bootstraps, patients))
    weights[0, present] = 1
    rng = counter_rng(seed, stream=ORDER)
    weights[1:, present] = rng.multinomial(len(present), np.full(len(present), 1 / len(present)), size=bootstraps)
    return weights


def summarise(values: np.ndarray) -> MetricValue:
    """Value and interval from ``values`` (1 + bootstraps,): the data's first. Undefined values are left out."""
    defined = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(defined, INTERVAL) if len(defined) else (np.nan, np.nan)
    spread = defined.std(ddof=1) if len(defined) > 1 else np.nan
    numbers = {"value": values[0], "low": low, "high": high, "se": spread}
    plain = {key: float(value) if np.isfinite(value) else None for key, value in numbers.items()}
    return MetricValue(**plain, samples=len(defined))
