"""Evaluation of predictions: metrics per patch, slide and patient, with bootstrap intervals by patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from histomake.base.errors import HistomakeError
from histomake.base.kinds import Kind
from histomake.base.records.metrics import (
    Agreement,
    LevelMetrics,
    MetricsRecord,
    MetricValue,
    OperatingPoint,
    PatientTruth,
)
from histomake.base.tables import lost_slide
from histomake.config import Target
from histomake.config.evaluation import Evaluate
from histomake.evaluate.bags import LEVELS, PATCH
from histomake.evaluate.horizon import Horizon
from histomake.evaluate.items import Items, SlidePrediction, differing
from histomake.evaluate.kinds import EVALUATED
from histomake.evaluate.operating import Tested, decisions, operating_points, shares_of_folds
from histomake.evaluate.patient_truth import OF_CLASSES, REFUSE
from histomake.evaluate.result import Evaluation, MetricRow
from histomake.evaluate.sampling import BOOTSTRAPS, INTERVAL, patient_weights, summarise
from histomake.evaluate.statistics import confusion_counts
from histomake.target.outputs import outputs_of

NOTHING_FURTHER = Evaluate()
"""No statistics beside the metrics."""

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
    bag_sizes: Mapping[str, Sequence[SlidePrediction]] | None = None,
    removal: Mapping[str, MetricValue] | None = None,
    attention: Agreement | None = None,
    statistics: Evaluate = NOTHING_FURTHER,
    validation: Sequence[SlidePrediction] = (),
    horizon: Horizon | None = None,
) -> Evaluation:
    """Measure predictions of test slides against their truth, at patch, slide and patient level.

    ``patient_truth`` is the rule by which the truth of a patient follows from that of the slides. Where it is to refuse
    and a patient has slides of several classes, the patient level has no items, and its record says why.
    ``level``: what the task predicts; slides and patients that are bags have no metrics of their patches. ``baselines``
    and ``bag_sizes`` are predictions of the same slides to measure beside; ``removal`` and ``attention`` are recorded.
    ``statistics`` are measured in addition, ``validation`` are the predictions of validation slides that operating
    points are chosen on.
    ``horizon``: the time at which predictions of survival are measured.
    Intervals are percentiles of ``bootstraps`` resamples of patients. A metric that is not defined (one class only)
    is null. Raises HistomakeError when no truth is known, unless damaged slides may be why.
    """
    patients = sorted({prediction.patient_id for prediction in predictions})
    classes = outputs_of(kind, target)
    evaluated = EVALUATED[kind]
    rule = evaluated.patient_truth[patient_truth]

    def items_of(predicted: Sequence[SlidePrediction], owners: Sequence[str] = patients) -> dict[str, Items]:
        return evaluated.items(predicted, kind, target, owners, aggregate, rule)

    def rows_of(predicted: Sequence[SlidePrediction], by_level: Mapping[str, Items]) -> list[MetricRow]:
        rows: list[MetricRow] = []
        for name, items in by_level.items():
            if len(items):
                weights = patient_weights(items.patient, len(patients), seed=seed, bootstraps=bootstraps)
                with np.errstate(invalid="ignore", divide="ignore"):
                    found = evaluated.metrics(name, items, classes, weights)
                    found |= horizon.metrics(items, weights, calibrated=predicted is predictions) if horizon else {}
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
    rows = rows_of(predictions, by_level)
    levels = {name: _level_metrics(name, items, classes, rows) for name, items in by_level.items()}
    if evaluated.risk_groups is not None:
        some = {name: items for name, items in by_level.items() if len(items)}
        levels |= {n: replace(levels[n], risk_groups=evaluated.risk_groups(items)) for n, items in some.items()}
    if statistics.operating_points.model_dump(exclude_none=True) or statistics.prevalences:
        chosen = _operating_points(
            predictions, validation, by_level, items_of, classes, statistics, seed=seed, bootstraps=bootstraps
        )
        levels |= {name: replace(levels[name], operating_points=points) for name, points in chosen.items()}
    if horizon is not None:
        levels |= {
            n: replace(levels[n], at_horizon=horizon.record(items)) for n, items in by_level.items() if len(items)
        }

    def beside(predicted: Sequence[SlidePrediction]) -> dict[str, LevelMetrics]:
        others = {key: items for key, items in items_of(predicted).items() if key in by_level and len(by_level[key])}
        found = rows_of(predicted, others)
        return {key: _level_metrics(key, items, classes, found) for key, items in others.items()}

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
        baselines={name: beside(predicted) for name, predicted in (baselines or {}).items()},
        bag_sizes={size: beside(predicted) for size, predicted in (bag_sizes or {}).items()},
        removal=dict(removal or {}),
        attention=attention or {},
    )
    return Evaluation(record, rows, by_level, classes)


def _operating_points(
    predictions: Sequence[SlidePrediction],
    validation: Sequence[SlidePrediction],
    by_level: Mapping[str, Items],
    items_of: Callable[[Sequence[SlidePrediction], Sequence[str]], dict[str, Items]],
    classes: Sequence[str],
    told: Evaluate,
    *,
    seed: int,
    bootstraps: int,
) -> dict[str, dict[str, list[OperatingPoint]]]:
    """Operating points by level and class, of the levels that have items."""
    position = {patient: i for i, patient in enumerate(sorted({p.patient_id for p in predictions}))}
    folds = sorted({prediction.fold for prediction in predictions})
    tested = [(position[p.patient_id], p.fold) for p in predictions if p.table.num_rows]
    # Each fold by itself: in cross-validation, several models are validated on the same patient.
    of_folds = {}
    for fold in folds:
        own = [prediction for prediction in validation if prediction.fold == fold]
        of_folds[fold] = items_of(own, sorted({prediction.patient_id for prediction in own}))
    found = {}
    for level, items in by_level.items():
        if len(items):
            weights = patient_weights(items.patient, len(position), seed=seed, bootstraps=bootstraps)
            shares = shares_of_folds(level, items, tested, folds)
            called = decisions(items, len(classes))
            point = Tested(items, called, shares, weights, told.prevalences)
            chosen_on = {fold: of_level[level] for fold, of_level in of_folds.items()}
            found[level] = operating_points(
                point, chosen_on, classes, told.operating_points.model_dump(exclude_none=True)
            )
    return found


def _level_metrics(level: str, items: Items, classes: list[str], rows: list[MetricRow]) -> LevelMetrics:
    metrics: dict[str, dict[str, MetricValue]] = {}
    for row in rows:
        if row.level == level:
            metrics.setdefault(row.class_name or "all", {})[row.metric] = row.found
    counts = confusion = None
    if items.target.ndim == 1 and items.predicted.ndim == 1 and len(items.predicted):
        one = np.ones((1, items.patient.max() + 1))
        found = confusion_counts(items.target, items.predicted, items.patient, one, classes=len(classes))
        confusion = found[0].astype(int).tolist()
        counts = {name: int((items.target == i).sum()) for i, name in enumerate(classes)}
    return LevelMetrics(
        count=len(items),
        patients=len(np.unique(items.patient)),
        metrics=metrics,
        confusion=confusion,
        per_class=counts,
    )
