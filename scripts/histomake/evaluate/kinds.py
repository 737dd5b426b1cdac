"""How predictions of each kind of task are evaluated: which items, which metrics, which figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from histomake.base.kinds import Kind
from histomake.base.records.metrics import PatientTruth, RiskGroups
from histomake.config import Target
from histomake.evaluate import calibration, curves, horizon, items, metrics, patient_truth, survival
from histomake.evaluate.items import Items, SlidePrediction
from histomake.evaluate.patient_truth import Rule
from histomake.evaluate.slide_rates import SlideRates, patch_rates, pixel_rates

GatherItems = Callable[[Sequence[SlidePrediction], Kind, Target, Sequence[str], str, Rule], dict[str, Items]]
"""Items by level, from predictions, task, patients, the way of pooling patches, and the rule of patient truth."""

Measure = Callable[[str, Items, Sequence[str], np.ndarray], metrics.Values]
"""Metrics of the items of a level, from the names of the outputs and the weights of patients."""


@dataclass(frozen=True)
class Evaluated:
    """How one kind of task is evaluated.

    patient_truth: how the truth of a patient follows from that of slides, by the rule's name.
    figures: their points, by name of the file.
    risk_groups: survival by group of risk. None: items have no risk.
    slide_rates: rates of the patches or pixels of single slides. None: these have no classes.
    """

    items: GatherItems
    patient_truth: Mapping[PatientTruth, Rule]
    metrics: Measure
    figures: dict[str, curves.Points]
    risk_groups: Callable[[Items], RiskGroups] | None
    slide_rates: SlideRates | None


SCORE_FIGURES: dict[str, curves.Points] = {
    "roc": curves.roc_points,
    "precision_recall": curves.precision_recall_points,
    "reliability": curves.reliability_points,
    "decision_curve": calibration.decision_curve_points,
}

EVALUATED: dict[Kind, Evaluated] = {
    Kind.CLASSIFICATION: Evaluated(
        items=partial(items.score_items, truth=items.class_truth),
        patient_truth=patient_truth.OF_CLASSES,
        metrics=metrics.class_metrics,
        figures=SCORE_FIGURES | {"confusion": curves.confusion_points},
        risk_groups=None,
        slide_rates=patch_rates,
    ),
    Kind.MULTI_LABEL: Evaluated(
        items=partial(items.score_items, truth=items.label_truth),
        patient_truth=patient_truth.OF_CLASSES,
        metrics=metrics.label_metrics,
        figures=SCORE_FIGURES,
        risk_groups=None,
        slide_rates=patch_rates,
    ),
    Kind.REGRESSION: Evaluated(
        items=partial(items.score_items, truth=items.number_truth),
        patient_truth=patient_truth.OF_NUMBERS,
        metrics=metrics.number_metrics,
        figures={"scatter": curves.scatter_points},
        risk_groups=None,
        slide_rates=None,
    ),
    Kind.SEGMENTATION: Evaluated(
        items=items.pixel_items,
        patient_truth=patient_truth.OF_NUMBERS,
        metrics=metrics.overlap_metrics,
        figures={"overlap": curves.overlap_points},
        risk_groups=None,
        slide_rates=pixel_rates,
    ),
    Kind.SURVIVAL: Evaluated(
        items=partial(items.score_items, truth=survival.survival_truth),
        patient_truth=patient_truth.OF_SURVIVAL,
        metrics=survival.survival_metrics,
        figures={
            "kaplan_meier": survival.kaplan_meier_points,
            "survival_calibration": horizon.calibration_points,
        },
        risk_groups=survival.risk_groups,
        slide_rates=None,
    ),
}
