"""Owns what is reported about predictions: metrics per patch, slide and patient, with intervals by patient.

Every metric is a function of sums over patients. A bootstrap sample is a count of how often each patient was drawn
(Efron & Tibshirani 1993, ch. 8: resample the unit that is independent), so all samples are one matrix product and a
thousand of them take about a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from histomake.base.errors import HistomakeError
from histomake.base.rng import ORDER, counter_rng
from histomake.config import Target
from histomake.evaluate import statistics
from histomake.target.outputs import outputs_of
from histomake.target.pooling import decide, pool_scores
from histomake.target.targets import JOINER, UNLABELLED, is_known, slide_target

BOOTSTRAPS = 1000
INTERVAL = (2.5, 97.5)

Values = dict[tuple[str, str], np.ndarray]
"""Metrics by (class, name), each (1 + bootstraps,): the data's value first. Class "" is the whole."""

ROW_SCHEMA = pa.schema(
    [
        ("level", pa.string()),
        ("class", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("se", pa.float64()),
        ("samples", pa.int32()),
    ]
)


@dataclass(frozen=True)
class SlidePrediction:
    """What one fold's model said about one test slide. threshold: of patches; slide_thresholds: by aggregation."""

    slide_id: str
    patient_id: str
    fold: int
    table: pa.Table
    threshold: float | list[float] = 0.5
    slide_thresholds: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Items:
    """Things that were judged at one level, n of them, all with a known truth.

    score: float64 (n, outputs), for segmentation (n, outputs, 3) pixel counts tp, fp, fn; target: int64 (n,), or
    (n, outputs) for several labels and regression; predicted: like target, empty where nothing is decided;
    patient: int64 (n,), position among the patients.
    """

    score: np.ndarray
    target: np.ndarray
    predicted: np.ndarray
    patient: np.ndarray

    def __len__(self) -> int:
        return len(self.patient)


@dataclass(frozen=True)
class Evaluation:
    """record: nested plain values for JSON; rows: one metric each; items: by level, for figures."""

    record: dict[str, Any]
    rows: list[dict[str, Any]]
    items: dict[str, Items]
    classes: list[str]

    def table(self) -> pa.Table:
        """The rows: level, class, metric, value, low, high, se, samples."""
        return pa.Table.from_pylist(self.rows, schema=ROW_SCHEMA)


def evaluate(
    predictions: Sequence[SlidePrediction],
    *,
    kind: str,
    target: Target,
    aggregate: str,
    seed: int,
    bootstraps: int = BOOTSTRAPS,
) -> Evaluation:
    """Measure predictions of test slides against their truth, at patch, slide and patient level.

    Intervals are percentiles of ``bootstraps`` resamples of patients. A metric that is not defined (one class only)
    is null. Raises HistomakeError when no truth is known.
    """
    patients = sorted({prediction.patient_id for prediction in predictions})
    classes = outputs_of(kind, target)
    gather = _segmentation_items if kind == "segmentation" else _score_items
    by_level = gather(predictions, kind, target, patients, aggregate)
    if not any(len(items) for items in by_level.values()):
        raise HistomakeError("no test patch, slide or patient has a label: there is nothing to evaluate against")
    rows: list[dict[str, Any]] = []
    for level, items in by_level.items():
        if len(items):
            weights = patient_weights(items.patient, len(patients), seed=seed, bootstraps=bootstraps)
            with np.errstate(invalid="ignore", divide="ignore"):
                found = level_metrics(level, items, kind, target, weights)
            rows += [{"level": level, **summarise(*key, values)} for key, values in found.items()]
    record = {
        "kind": kind,
        "classes": classes,
        "seed": seed,
        "bootstraps": bootstraps,
        "aggregate": aggregate,
        "interval_percent": list(INTERVAL),
        "patients": len(patients),
        "slides": len(predictions),
        "levels": {level: _level_record(level, items, classes, rows) for level, items in by_level.items()},
    }
    return Evaluation(record, rows, by_level, classes)


def _level_record(level: str, items: Items, classes: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    metrics: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["level"] == level:
            content = {key: row[key] for key in ("value", "low", "high", "se", "samples")}
            metrics.setdefault(row["class"] or "all", {})[row["metric"]] = content
    record = {"count": len(items), "patients": len(np.unique(items.patient)), "metrics": metrics}
    if items.target.ndim == 1 and items.predicted.ndim == 1 and len(items.predicted):
        one = np.ones((1, items.patient.max() + 1))
        confusion = statistics.confusion_counts(items.target, items.predicted, items.patient, one, classes=len(classes))
        record["confusion"] = confusion[0].astype(int).tolist()
        record["per_class"] = {name: int((items.target == i).sum()) for i, name in enumerate(classes)}
    return record


def _score_items(
    predictions: Sequence[SlidePrediction], kind: str, target: Target, patients: Sequence[str], aggregation: str
) -> dict[str, Items]:
    """Patches, slides and patients of known truth, with their scores and decisions."""
    names, position = outputs_of(kind, target), {patient: i for i, patient in enumerate(patients)}
    patches, slides = [], []
    for prediction in predictions:
        table, patient = prediction.table, position[prediction.patient_id]
        score = np.stack([table[f"score_{name}"].to_numpy() for name in names], axis=1).astype(np.float64)
        truth = patch_truth(table, kind, target)
        known = is_known(truth)
        decided = _decided(score[known], prediction.threshold, kind, target)
        patches.append((score[known], truth[known], decided, np.full(int(known.sum()), patient)))
        if len(score):
            pooled = pool_scores(score, aggregation, table["tissue"].to_numpy())
            whole = slide_target(kind, target, prediction.labels, truth, slide_id=prediction.slide_id)
            threshold = prediction.slide_thresholds.get(aggregation, prediction.threshold)
            slides.append((pooled, whole, threshold, patient))
    slides = [slide for slide in slides if is_known(slide[1][None])[0]]
    of_patients = [[slide for slide in slides if slide[3] == patient] for patient in range(len(patients))]
    return {
        "patch": _stack(patches, len(names)),
        "slide": _stack([_pooled([slide], kind, target) for slide in slides], len(names)),
        "patient": _stack([_pooled(group, kind, target) for group in of_patients if group], len(names)),
    }


def patch_truth(table: pa.Table, kind: str, target: Target) -> np.ndarray:
    """The truth in a prediction table, shaped and typed as patch targets are."""
    names = outputs_of(kind, target)
    if kind == "regression":
        columns = [table[f"target_{name}"].to_numpy(zero_copy_only=False) for name in names]
        return np.stack(columns, axis=1).astype(np.float64)
    labels = table["label"].combine_chunks().cast(pa.string()).to_pylist() if table.num_rows else []
    if target.multi_label:
        rows = [[np.nan] * len(names) if v is None else [n in v.split(JOINER) for n in names] for v in labels]
        return np.array(rows, np.float64).reshape(-1, len(names))
    numbers = {name: i for i, name in enumerate(names)}
    return np.array([numbers.get(value, UNLABELLED) for value in labels], np.int64)


def _decided(score: np.ndarray, threshold: float | list[float], kind: str, target: Target) -> np.ndarray:
    if kind == "regression":
        return np.zeros((len(score), 0))
    return decide(score, threshold, multi_label=target.multi_label)


def _pooled(slides: list[tuple], kind: str, target: Target) -> tuple[np.ndarray, ...]:
    """Slides of one patient as one item: mean score and threshold; every class that any has, the highest, or mean."""
    score = np.mean([slide[0] for slide in slides], axis=0)[None]
    truth = np.stack([slide[1] for slide in slides])
    truth = np.nanmean(truth, axis=0) if kind == "regression" else truth.max(axis=0)
    threshold = np.mean([slide[2] for slide in slides], axis=0)
    return score, truth[None], _decided(score, threshold, kind, target), np.array([slides[0][3]])


def _stack(parts: Iterable[tuple[np.ndarray, ...]], outputs: int) -> Items:
    columns = list(zip(*parts, strict=True))
    if not columns:
        nothing = np.zeros(0, np.int64)
        return Items(np.zeros((0, outputs)), nothing, nothing, nothing)
    return Items(*(np.concatenate(column) for column in columns))


def _segmentation_items(
    predictions: Sequence[SlidePrediction], kind: str, target: Target, patients: Sequence[str], _aggregation: str
) -> dict[str, Items]:
    """Pixel counts tp, fp, fn of each output: of all patches together, of each slide, of each patient."""
    names, position = outputs_of(kind, target), {patient: i for i, patient in enumerate(patients)}
    counts = []
    for prediction in predictions:
        table = prediction.table
        columns = [[table[f"{count}_{name}"].to_numpy() for count in ("tp", "fp", "fn")] for name in names]
        counts.append(np.array(columns, np.int64).reshape(len(names), 3, -1).sum(axis=2))
    patient = np.array([position[prediction.patient_id] for prediction in predictions], np.int64)
    slides = np.array(counts).reshape(-1, len(names), 3)
    seen = slides[:, :, [0, 2]].sum((1, 2)) > 0
    slides, patient = slides[seen], patient[seen]
    pooled = np.stack([slides[patient == p].sum(0) for p in np.unique(patient)]) if seen.any() else slides
    nothing = np.zeros(0, np.int64)
    by_slide = Items(slides, nothing, nothing, patient)
    return {"pixel": by_slide, "slide": by_slide, "patient": Items(pooled, nothing, nothing, np.unique(patient))}


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


def summarise(class_name: str, metric: str, values: np.ndarray) -> dict[str, Any]:
    """Value and interval from ``values`` (1 + bootstraps,): the data's first. Undefined values are left out."""
    defined = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(defined, INTERVAL) if len(defined) else (np.nan, np.nan)
    spread = defined.std(ddof=1) if len(defined) > 1 else np.nan
    numbers = {"value": values[0], "low": low, "high": high, "se": spread}
    plain = {key: float(value) if np.isfinite(value) else None for key, value in numbers.items()}
    return {"class": class_name, "metric": metric, **plain, "samples": len(defined)}


def level_metrics(level: str, items: Items, kind: str, target: Target, weights: np.ndarray) -> Values:
    """All metrics of one level's items."""
    names = outputs_of(kind, target)
    if kind == "segmentation":
        pool = statistics.overlaps if level == "pixel" else statistics.mean_overlaps
        return _by_class(names, [pool(items.score[:, i], items.patient, weights) for i in range(len(names))])
    if kind == "regression":
        return _by_class(names, [_regression(items, i, weights) for i in range(len(names))])
    if target.multi_label:
        return _by_class(names, [_one_label(items, i, weights) for i in range(len(names))])
    return _classification(items, names, weights)


def _by_class(names: Sequence[str], each: list[dict[str, np.ndarray]]) -> Values:
    """Metrics of every class, and their mean over the classes where they are defined."""
    found: Values = {(name, key): values for name, one in zip(names, each, strict=True) for key, values in one.items()}
    for key in each[0]:
        stacked = np.ma.masked_invalid([one[key] for one in each])
        found["", key] = stacked.mean(axis=0).filled(np.nan)
    return found


def _classification(items: Items, names: Sequence[str], weights: np.ndarray) -> Values:
    """With two classes the whole is about the second, the positive one; with more it is the mean over classes."""
    confusion = statistics.confusion_counts(items.target, items.predicted, items.patient, weights, classes=len(names))
    each = []
    for i in range(len(names)):
        histograms = statistics.score_histograms(items.score[:, i], items.target == i, items.patient, weights)
        each.append(_areas(*histograms) | statistics.rates(confusion, i))
    found = _by_class(names, each)
    if len(names) == 2:
        found |= {("", key): values for key, values in each[1].items()}
    found |= {("", key): values for key, values in statistics.overall(confusion).items()}
    right = items.score.argmax(1) == items.target
    bins = statistics.calibration_sums(items.score.max(1), right, items.patient, weights)
    found["", "ece"] = statistics.calibration_error(bins)
    return found


def _areas(positive: np.ndarray, negative: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "auroc": statistics.area_under_roc(positive, negative),
        "auprc": statistics.average_precision(positive, negative),
    }


def _one_label(items: Items, i: int, weights: np.ndarray) -> dict[str, np.ndarray]:
    """One of several labels, present or absent."""
    known = ~np.isnan(items.target[:, i])
    score, patient = items.score[known, i], items.patient[known]
    truth, called = items.target[known, i] > 0.5, items.predicted[known, i].astype(np.int64)
    confusion = statistics.confusion_counts(truth.astype(np.int64), called, patient, weights, classes=2)
    confidence = np.maximum(score, 1 - score)
    bins = statistics.calibration_sums(confidence, (score > 0.5) == truth, patient, weights)
    areas = _areas(*statistics.score_histograms(score, truth, patient, weights))
    return {
        **areas,
        **statistics.rates(confusion, 1),
        **statistics.overall(confusion),
        "ece": statistics.calibration_error(bins),
    }


def _regression(items: Items, i: int, weights: np.ndarray) -> dict[str, np.ndarray]:
    known = ~np.isnan(items.target[:, i])
    return statistics.regression_errors(
        items.score[known, i], items.target[known, i].astype(np.float64), items.patient[known], weights
    )
