"""How the predictions of a task are measured: the task's items, and their metrics with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from histomake.base.kinds import Kind
from histomake.base.patient_bootstrap import patient_weights
from histomake.base.records.metrics import LevelMetrics, MetricValue, PatientTruth
from histomake.config import Target
from histomake.evaluate.horizon import Horizon
from histomake.evaluate.items import Items, SlidePrediction
from histomake.evaluate.kinds import EVALUATED
from histomake.evaluate.result import MetricRow
from histomake.evaluate.sampling import summarise
from histomake.evaluate.slide_rates import EVERY_CLASS
from histomake.evaluate.statistics import confusion_counts
from histomake.target.outputs import outputs_of


@dataclass(frozen=True)
class Measuring:
    """What is measured of any predictions of a task.

    aggregate: how scores of patches are pooled; patient_truth: how the truth of a patient follows from that of slides;
    seed, bootstraps: of the resamples of patients; horizon: the time at which predictions of survival are measured.
    """

    kind: Kind
    target: Target
    aggregate: str
    patient_truth: PatientTruth
    seed: int
    bootstraps: int
    horizon: Horizon | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the outputs."""
        return outputs_of(self.kind, self.target)

    def items(self, predictions: Sequence[SlidePrediction], patients: Sequence[str]) -> dict[str, Items]:
        """Items by level; ``patients``: ids of all patients, to whose positions items refer."""
        evaluated = EVALUATED[self.kind]
        rule = evaluated.patient_truth[self.patient_truth]
        return evaluated.items(predictions, self.kind, self.target, patients, self.aggregate, rule)

    def rows(self, by_level: Mapping[str, Items], patients: int, *, calibrated: bool = True) -> list[MetricRow]:
        """Metrics of the levels that have items.

        ``calibrated``: whether the scores are those of the models, so that risks mean what their cards say.
        """
        rows: list[MetricRow] = []
        for level, items in by_level.items():
            if len(items):
                weights = patient_weights(items.patient, patients, seed=self.seed, bootstraps=self.bootstraps)
                with np.errstate(invalid="ignore", divide="ignore"):
                    found = EVALUATED[self.kind].metrics(level, items, self.classes, weights)
                    found |= self.horizon.metrics(items, weights, calibrated=calibrated) if self.horizon else {}
                rows += [MetricRow(level, *key, summarise(values)) for key, values in found.items()]
        return rows

    def levels(
        self, predictions: Sequence[SlidePrediction], wanted: Sequence[str], *, calibrated: bool
    ) -> dict[str, tuple[Items, LevelMetrics]]:
        """Items and metrics of predictions, of those of the ``wanted`` levels that have items."""
        patients = sorted({prediction.patient_id for prediction in predictions})
        by_level = {n: found for n, found in self.items(predictions, patients).items() if n in wanted and len(found)}
        rows = self.rows(by_level, len(patients), calibrated=calibrated)
        return {name: (items, level_metrics(name, items, self.classes, rows)) for name, items in by_level.items()}


def level_metrics(level: str, items: Items, classes: list[str], rows: Sequence[MetricRow]) -> LevelMetrics:
    """The metrics of a level among ``rows``, with counts of its items."""
    metrics: dict[str, dict[str, MetricValue]] = {}
    for row in rows:
        if row.level == level:
            metrics.setdefault(row.class_name or EVERY_CLASS, {})[row.metric] = row.found
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
