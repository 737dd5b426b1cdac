"""Evaluation of predictions: metrics per patch, slide and patient, with bootstrap intervals by patient."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from histomake.base.errors import HistomakeError
from histomake.base.kinds import Kind
from histomake.base.patient_bootstrap import BOOTSTRAPS, INTERVAL, patient_weights
from histomake.base.records.metrics import (
    Agreement,
    ComparedLevel,
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
from histomake.evaluate.comparison import compare
from histomake.evaluate.horizon import Horizon
from histomake.evaluate.importance import Permuted, importance
from histomake.evaluate.items import Items, SlidePrediction, differing
from histomake.evaluate.kinds import EVALUATED
from histomake.evaluate.measuring import Measuring, level_metrics
from histomake.evaluate.operating import Tested, decisions, operating_points, shares_of_folds
from histomake.evaluate.patient_truth import OF_CLASSES, REFUSE
from histomake.evaluate.result import Evaluation
from histomake.evaluate.slide_table import slide_table
from histomake.evaluate.subgroups import subgroup_tables

NOTHING_FURTHER = Evaluate()
"""No statistics beside the metrics."""

NO_COLUMNS: Mapping[str, Sequence[str]] = {}
"""No subgroups."""

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
    removal_by_share: Mapping[str, dict[str, MetricValue]] | None = None,
    attention: Agreement | None = None,
    permuted: Permuted | None = None,
    statistics: Evaluate = NOTHING_FURTHER,
    validation: Sequence[SlidePrediction] = (),
    horizon: Horizon | None = None,
    subgroups: Mapping[str, Sequence[str]] = NO_COLUMNS,
) -> Evaluation:
    """Measure predictions of test slides against their truth, at patch, slide and patient level.

    ``patient_truth`` is the rule by which the truth of a patient follows from that of the slides. Where it is to refuse
    and a patient has slides of several classes, the patient level has no items, and its record says why.
    ``level``: what the task predicts; slides and patients that are bags have no metrics of their patches. ``baselines``
    and ``bag_sizes`` are predictions of the same slides to measure beside; ``removal``, ``removal_by_share`` and
    ``attention`` are recorded. ``permuted`` are predictions after features of nodes were exchanged. ``statistics`` are
    measured in addition, ``validation`` are the predictions of validation slides that operating points are chosen on,
    and ``subgroups`` the values of the predicted slides by column.
    ``horizon``: the time at which predictions of survival are measured.
    Intervals are percentiles of ``bootstraps`` resamples of patients. A metric that is not defined (one class only)
    is null. Raises HistomakeError when no truth is known, unless damaged slides may be why.
    """
    patients = sorted({prediction.patient_id for prediction in predictions})
    evaluated = EVALUATED[kind]
    measuring = Measuring(
        kind=kind,
        target=target,
        aggregate=aggregate,
        patient_truth=patient_truth,
        seed=seed,
        bootstraps=bootstraps,
        horizon=horizon,
    )
    classes = measuring.classes
    by_level = measuring.items(predictions, patients)
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
    rows = measuring.rows(by_level, len(patients))
    levels = {name: level_metrics(name, items, classes, rows) for name, items in by_level.items()}
    measured = [name for name, items in by_level.items() if len(items)]
    points: dict[str, dict[str, list[OperatingPoint]]] = {}
    if statistics.operating_points.model_dump(exclude_none=True) or statistics.prevalences:
        points = _operating_points(predictions, validation, by_level, measuring, statistics)
    tables = {column: subgroup_tables(predictions, of, measuring, measured) for column, of in subgroups.items()}
    for name in measured:
        levels[name] = replace(
            levels[name],
            risk_groups=evaluated.risk_groups(by_level[name]) if evaluated.risk_groups else None,
            operating_points=points.get(name, {}),
            at_horizon=horizon.record(by_level[name]) if horizon else None,
            subgroups={column: found[name] for column, found in tables.items()},
        )

    def beside(predicted: Sequence[SlidePrediction]) -> dict[str, LevelMetrics]:
        return {name: found for name, (_, found) in measuring.levels(predicted, measured, calibrated=False).items()}

    def against(name: str, predicted: Sequence[SlidePrediction]) -> dict[str, ComparedLevel]:
        if not measured:
            return {}
        own, other = ("task", _of_folds(predictions), aggregate), (name, _of_folds(predicted), aggregate)
        found = compare(
            own, other, kind=kind, target=target, seed=seed, patient_truth=patient_truth, bootstraps=bootstraps
        )
        return {level: differences for level, differences in found.levels.items() if level in measured}

    # The patches of a bag have no truth of their own.
    slides = slide_table(predictions if level == PATCH else (), measuring)
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
        slide_means=slides.means,
        baselines={name: beside(predicted) for name, predicted in (baselines or {}).items()},
        baseline_differences={name: against(name, predicted) for name, predicted in (baselines or {}).items()},
        bag_sizes={size: beside(predicted) for size, predicted in (bag_sizes or {}).items()},
        removal=dict(removal or {}),
        removal_by_share=dict(removal_by_share or {}),
        attention=attention or {},
        importance=importance(permuted or {}, levels, measuring),
    )
    return Evaluation(record, rows, by_level, classes, slides.rows, time=target.time)


def _of_folds(predictions: Sequence[SlidePrediction]) -> list[SlidePrediction]:
    """Predictions named after slide and fold: where roles are in the sheet, each fold predicts the same slides."""
    return [dataclasses.replace(one, slide_id=f"{one.slide_id}, fold {one.fold}") for one in predictions]


def _operating_points(
    predictions: Sequence[SlidePrediction],
    validation: Sequence[SlidePrediction],
    by_level: Mapping[str, Items],
    measuring: Measuring,
    told: Evaluate,
) -> dict[str, dict[str, list[OperatingPoint]]]:
    """Operating points by level and class, of the levels that have items."""
    position = {patient: i for i, patient in enumerate(sorted({p.patient_id for p in predictions}))}
    folds = sorted({prediction.fold for prediction in predictions})
    tested = [(position[p.patient_id], p.fold) for p in predictions if p.table.num_rows]
    # Each fold by itself: in cross-validation, several models are validated on the same patient.
    of_folds = {}
    for fold in folds:
        own = [prediction for prediction in validation if prediction.fold == fold]
        of_folds[fold] = measuring.items(own, sorted({prediction.patient_id for prediction in own}))
    classes = measuring.classes
    found = {}
    for level, items in by_level.items():
        if len(items):
            weights = patient_weights(
                items.patient, len(position), seed=measuring.seed, bootstraps=measuring.bootstraps
            )
            shares = shares_of_folds(level, items, tested, folds)
            called = decisions(items, len(classes))
            point = Tested(items, called, shares, weights, told.prevalences)
            chosen_on = {fold: of_level[level] for fold, of_level in of_folds.items()}
            found[level] = operating_points(
                point, chosen_on, classes, told.operating_points.model_dump(exclude_none=True)
            )
    return found
