"""Evaluation of what is predicted from bags: baselines from the same features, and attention against annotation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from sklearn.metrics import average_precision_score, roc_auc_score

from histomake.base.patient_bootstrap import patient_weights
from histomake.base.records.bag_probe import SHARES, Removal, probe_of
from histomake.base.records.graph import EDGE_ABLATIONS
from histomake.base.records.metrics import MetricValue
from histomake.evaluate import statistics
from histomake.evaluate.items import SlidePrediction
from histomake.evaluate.sampling import summarise

if TYPE_CHECKING:
    from numpy.typing import NDArray

ANNOTATED_AS = 0.5
"""Share of a patch that a class must cover for the patch to be of the class."""

PATCH = "patch"

LEVELS = {PATCH: ("pixel", "patch", "slide", "patient"), "slide": ("slide", "patient"), "patient": ("patient",)}
"""Levels at which a task is evaluated, by what it predicts."""

REMOVALS = (
    "deletion",
    "insertion",
    "random_deletion",
    "random_insertion",
    "deletion_better",
    "insertion_better",
)
"""Names of what removal of patches measures; the last two are shares of the bags."""

FITTED_BASELINES = {"mean_features": "linear"} | {name: name for name in EDGE_ABLATIONS}
"""Beginnings of the columns with the scores of baselines, by their names; a task has those whose columns are there."""

PATCH_METRICS = {"auroc": roc_auc_score, "auprc": average_precision_score}


def baselines(
    predictions: Sequence[SlidePrediction], names: Sequence[str], usual: Mapping[int, Sequence[float]]
) -> dict[str, list[SlidePrediction]]:
    """The same slides as the baselines and ablations predict them, by their names.

    There is no linear one of models on bags of pixels that earlier versions have made, and ablations are of graphs.
    ``names``: outputs; ``usual``: scores of the baseline that knows no features, by fold.
    """
    found: dict[str, list[SlidePrediction]] = {}
    for prediction in predictions:
        table = prediction.table
        fitted = {
            baseline: {name: table[f"{column}_{name}"] for name in names if f"{column}_{name}" in table.column_names}
            for baseline, column in FITTED_BASELINES.items()
        }
        constant = {
            name: pa.array(np.full(table.num_rows, value), pa.float32())
            for name, value in zip(names, usual[prediction.fold], strict=True)
        }
        for kind_of_baseline, scores in (*fitted.items(), ("usual_target", constant)):
            if scores:
                other = with_scores(table, scores)
                found.setdefault(kind_of_baseline, []).append(
                    replace(prediction, table=other, threshold=0.5, slide_thresholds={})
                )
    return found


def with_scores(table: pa.Table, scores: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """A table of predictions with other scores, by output."""
    for name, column in scores.items():
        table = table.set_column(table.schema.get_field_index(f"score_{name}"), f"score_{name}", column)
    return table


def by_bag_size(predictions: Sequence[SlidePrediction], names: Sequence[str]) -> dict[str, list[SlidePrediction]]:
    """The same slides as they are predicted from bags of some patches, by their number.

    ``names``: outputs. Slides without a prediction are left out.
    """
    found: dict[str, list[SlidePrediction]] = {}
    for prediction in predictions:
        probe = probe_of(prediction.table)
        for size, values in probe.sizes.items() if probe is not None else ():
            rows = prediction.table.num_rows
            scores = {n: pa.array(np.full(rows, value), pa.float32()) for n, value in zip(names, values, strict=True)}
            found.setdefault(size, []).append(replace(prediction, table=with_scores(prediction.table, scores)))
    return found


def removal(
    predictions: Sequence[SlidePrediction], level: str, *, seed: int, bootstraps: int
) -> dict[str, MetricValue]:
    """How far scores change without the patches of highest attention, and with these alone, beside random ones.

    Means over bags, slides or patients as ``level`` says, with intervals by patient; see `Removal`.
    """
    probed = _Probed.of(predictions, level)
    each = []
    for orders in probed.orders:
        values = [value for order in orders for value in (order.deletion, order.insertion)]
        each.append([*values, float(values[0] > values[2]), float(values[1] < values[3])])
    return dict(zip(REMOVALS, probed.means(each, seed=seed, bootstraps=bootstraps), strict=False))


def removal_by_share(
    predictions: Sequence[SlidePrediction], level: str, *, seed: int, bootstraps: int
) -> dict[str, dict[str, MetricValue]]:
    """`removal` for each share of the patches, by the share; none of predictions that do not have it."""
    probed = _Probed.of(predictions, level)
    if not all(order.deletions for orders in probed.orders for order in orders):
        return {}
    found = {}
    for number, share in enumerate(SHARES):
        each = [
            [v[number] for order in orders for v in (order.deletions, order.insertions)] for orders in probed.orders
        ]
        means = probed.means(each, seed=seed, bootstraps=bootstraps)
        found[f"{share:g}"] = dict(zip(REMOVALS, means, strict=False))
    return found if probed.orders else {}


@dataclass(frozen=True)
class _Probed:
    """Removals of b bags by attention and at random, the number of each one's patient, and the number of patients."""

    orders: list[tuple[Removal, Removal]]
    owner: NDArray[np.int64]
    patients: int

    @classmethod
    def of(cls, predictions: Sequence[SlidePrediction], level: str) -> _Probed:
        """Those of predictions; all slides of a patient have one if ``level`` is "patient"."""
        patients = sorted({prediction.patient_id for prediction in predictions})
        each: dict[tuple[str, int], tuple[int, Removal, Removal]] = {}
        for prediction in predictions:
            probe = probe_of(prediction.table)
            if probe is not None and probe.attention is not None and probe.random is not None:
                bag = prediction.patient_id if level == "patient" else prediction.slide_id
                each[bag, prediction.fold] = patients.index(prediction.patient_id), probe.attention, probe.random
        owner = np.array([number for number, _, _ in each.values()], np.int64)
        return cls([(attention, random) for _, attention, random in each.values()], owner, len(patients))

    def means(self, each: Sequence[Sequence[float]], *, seed: int, bootstraps: int) -> list[MetricValue]:
        """Means of values (b, n) over bags; none without bags."""
        if not each:
            return []
        return list(map(summarise, _means(np.array(each), self.owner, self.patients, seed=seed, bootstraps=bootstraps)))


@dataclass(frozen=True)
class AnnotatedSlide:
    """A test slide with annotation: its patient, predictions of n patches, and annotated shares (n,) by class."""

    patient_id: str
    table: pa.Table
    areas: Mapping[str, NDArray[np.floating]]


def attention_agreement(
    slides: Sequence[AnnotatedSlide], names: Sequence[str], *, exclusive: bool, seed: int, bootstraps: int
) -> dict[str, dict[str, dict[str, MetricValue]]]:
    """How well attention and contributions tell annotated patches from others: by measure, annotated class and metric.

    Each is the mean over the slides that have patches of the class and others, with an interval by patient.
    """
    patients = sorted({slide.patient_id for slide in slides})
    found: dict[str, dict[str, dict[str, MetricValue]]] = {}
    for measure, values in _measures(slides, names, exclusive=exclusive).items():
        for name in sorted({name for slide in slides for name in slide.areas}):
            each, owner = [], []
            for slide, value in zip(slides, values, strict=True):
                truth = slide.areas[name] >= ANNOTATED_AS
                if truth.any() and not truth.all():
                    each.append([metric(truth, value) for metric in PATCH_METRICS.values()])
                    owner.append(patients.index(slide.patient_id))
            if each:
                means = _means(np.array(each), np.array(owner), len(patients), seed=seed, bootstraps=bootstraps)
                found.setdefault(measure, {})[name] = dict(zip(PATCH_METRICS, map(summarise, means), strict=True))
    return found


def _means(
    each: NDArray[np.float64], owner: NDArray[np.int64], patients: int, *, seed: int, bootstraps: int
) -> NDArray[np.float64]:
    """Means over slides, (metrics, 1 + bootstraps)."""
    weights = patient_weights(owner, patients, seed=seed, bootstraps=bootstraps)
    count = statistics.weighted_sums(np.ones(len(each)), owner, weights)
    return (statistics.weighted_sums(each, owner, weights) / count[:, None]).T


def _measures(
    slides: Sequence[AnnotatedSlide], names: Sequence[str], *, exclusive: bool
) -> dict[str, list[NDArray[np.float64]]]:
    """Values of the patches of each slide, by measure."""
    found = {"attention": [slide.table["attention"].to_numpy() for slide in slides]}
    if not slides or f"contribution_{names[0]}" not in slides[0].table.column_names:
        return found
    for name in names:
        found[f"contribution to {name}"] = [slide.table[f"contribution_{name}"].to_numpy() for slide in slides]
    if exclusive and len(names) == 2:
        # Only the difference of two logits matters to the score.
        first, second = (found.pop(f"contribution to {name}") for name in names)
        found[f"contribution to {names[1]}"] = [b - a for a, b in zip(first, second, strict=True)]
    return found
