"""How predictions of each kind of task are evaluated: which items, which metrics, which figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from histomake.base.kinds import Kind
from histomake.config import Target
from histomake.evaluate import curves, items, metrics
from histomake.evaluate.items import Items, SlidePrediction

GatherItems = Callable[[Sequence[SlidePrediction], Kind, Target, Sequence[str], str], dict[str, Items]]
"""Items by level, from predictions, task, patients and the way of pooling patches."""

Measure = Callable[[str, Items, Sequence[str], np.ndarray], metrics.Values]
"""Metrics of the items of a level, from the names of the outputs and the weights of patients."""


@dataclass(frozen=True)
class Evaluated:
    """How one kind of task is evaluated; figures: their points, by name of the file."""

    items: GatherItems
    metrics: Measure
    figures: dict[str, curves.Points]


SCORE_FIGURES: dict[str, curves.Points] = {
    "roc": curves.roc_points,
    "precision_recall": curves.precision_recall_points,
    "reliability": curves.reliability_points,
}

EVALUATED: dict[Kind, Evaluated] = {
    Kind.CLASSIFICATION: Evaluated(
        items=partial(items.score_items, truth=items.class_truth, of_patient=items.highest),
        metrics=metrics.class_metrics,
        figures=SCORE_FIGURES | {"confusion": curves.confusion_points},
    ),
    Kind.MULTI_LABEL: Evaluated(
        items=partial(items.score_items, truth=items.label_truth, of_patient=items.highest),
        metrics=metrics.label_metrics,
        figures=SCORE_FIGURES,
    ),
    Kind.REGRESSION: Evaluated(
        items=partial(items.score_items, truth=items.number_truth, of_patient=items.mean),
        metrics=metrics.number_metrics,
        figures={"scatter": curves.scatter_points},
    ),
    Kind.SEGMENTATION: Evaluated(
        items=items.pixel_items,
        metrics=metrics.overlap_metrics,
        figures={"overlap": curves.overlap_points},
    ),
}
