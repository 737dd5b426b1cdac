"""Evaluation of predictions: metrics per patch, slide and patient, with bootstrap intervals by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from histomake.base.errors import HistomakeError
from histomake.base.kinds import Kind
from histomake.base.records.metrics import Agreement, LevelMetrics, MetricsRecord, MetricValue, PatientTruth
from histomake.base.tables import lost_slide
from histomake.config import Target
from histomake.evaluate import statistics
from histomake.evaluate.bags import LEVELS, PATCH
from histomake.evaluate.items import Items, SlidePrediction, differing
from histomake.evaluate.kinds import EVALUATED
from histomake.evaluate.patient_truth import OF_CLASSES, REFUSE
from histomake.evaluate.result import Evaluation, MetricRow
from histomake.evaluate.sampling import BOOTSTRAPS, INTERVAL, patient_weights, summarise
from histomake.target.outputs import outputs_of

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
    level: str = PATCH,
    baselines: Mapping[str, Sequence[SlidePrediction]] | None = None,
    attention: Agreement | None = None,
) -> Evaluation:
    """Measure predictions of test slides against their truth, at patch, slide and patient level.

    ``patient_truth`` is the rule by which the truth of a patient follows from that of the slides. Where it is to refuse
    and a patient has slides of several classes, the patient level has no items, and its record says why.
    ``level``: what the task predicts; slides and patients that are bags have no metrics of their patches. ``baselines``
    are predictions of the same slides to measure beside, and ``attention`` is recorded.
    Intervals are percentiles of ``bootstraps`` resamples of patients. A metric that is not defined (one class only)
    is null. Raises HistomakeError when no truth is known, unless damaged slides may be why.
    """
    patients = sorted({prediction.patient_id for prediction in predictions})
    classes = outputs_of(kind, target)
    evaluated = EVALUATED[kind]
    rule = evaluated.patient_truth[patient_truth]

    def items_of(predicted: Sequence[SlidePrediction]) -> dict[str, Items]:
        return evaluated.items(predicted, kind, target, patients, aggregate, rule)

    def rows_of(by_level: Mapping[str, Items]) -> list[MetricRow]:
        rows: list[MetricRow] = []
        for name, items in by_level.items():
            if len(items):
                weights = patient_weights(items.patient, len(patients), seed=seed, bootstraps=bootstraps)
                with np.errstate(invalid="ignore", divide="ignore"):
                    found = evaluated.metrics(name, items, classes, weights)
                rows += [MetricRow(name, *key, summarise(values)) for key, values in found.items()]
        return rows

    by_level = items_of(predictions)
    differ: list[str] = []
    if evaluated.patient_truth is OF_CLASSES:
        differ = [patients[number] for number in differing(by_level["slide"])]
    refused = differ if patient_truth == REFUSE else []
    if refused:
        by_level["patient"] = by_level["patient"].none()
    by_level = {name: items for name, items in by_level.items() if name in LEVELS[level]}
    damaged = any(lost_slide(prediction.table) for prediction in predictions)
    if not damaged and not any(len(items) for items in by_level.values()):
        raise HistomakeError("no test patch, slide or patient has a label: there is nothing to evaluate against")
    rows = rows_of(by_level)
    levels = {name: _level_metrics(name, items, classes, rows) for name, items in by_level.items()}
    if evaluated.risk_groups is not None:
        some = {name: items for name, items in by_level.items() if len(items)}
        levels |= {n: replace(levels[n], risk_groups=evaluated.risk_groups(items)) for n, items in some.items()}
    beside = {}
    for name, predicted in (baselines or {}).items():
        others = {key: items for key, items in items_of(predicted).items() if key in by_level and len(by_level[key])}
        found = rows_of(others)
        beside[name] = {key: _level_metrics(key, items, classes, found) for key, items in others.items()}
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
        level=level,
        baselines=beside,
        attention=attention or {},
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
