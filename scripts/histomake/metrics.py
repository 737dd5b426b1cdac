"""Owns what is reported about predictions: metrics per patch, slide and patient, with intervals by patient.

Every metric is a function of sums over patients (confusion counts, score histograms, calibration bins, moments).
A bootstrap sample is a count of how often each patient was drawn (Efron & Tibshirani 1993, ch. 8: resample the unit
that is independent), so all samples are one matrix product and 1000 of them take about a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from histomake.config import Target
from histomake.errors import HistomakeError
from histomake.learn.score import pool_scores
from histomake.learn.target import UNLABELLED, slide_class
from histomake.patch.sampler import ORDER, counter_rng

BOOTSTRAPS = 1000
INTERVAL = (2.5, 97.5)
SCORE_BINS = 2048
CALIBRATION_BINS = 15
LEVELS = ("patch", "slide", "patient")

MetricRow = dict[str, Any]


@dataclass(frozen=True)
class SlidePrediction:
    """What one fold's model said about one test slide. threshold: of patches; slide_thresholds: by aggregation."""

    slide_id: str
    patient_id: str
    fold: int
    table: pa.Table
    threshold: float = 0.5
    slide_thresholds: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Items:
    """Things that were classified at one level, n of them, all labelled.

    score: float64 (n, classes); label, predicted: int64 (n,); patient: int64 (n,), position among the patients.
    """

    score: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    patient: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """record: nested plain values for JSON; rows: one metric each, for Parquet; items: by level, for figures."""

    record: dict[str, Any]
    rows: list[MetricRow]
    items: dict[str, Items]

    def table(self) -> pa.Table:
        """The rows: level, class, metric, value, low, high, se, samples."""
        return pa.Table.from_pylist(self.rows, schema=ROW_SCHEMA)


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


def evaluate(
    predictions: Sequence[SlidePrediction],
    *,
    kind: str,
    target: Target,
    aggregate: str,
    seed: int,
    bootstraps: int = BOOTSTRAPS,
) -> Evaluation:
    """Measure predictions of test slides against their labels, at patch, slide and patient level.

    Intervals are percentiles of ``bootstraps`` resamples of patients. A metric that is not defined (one class only)
    is null. Raises HistomakeError when nothing is labelled.
    """
    patients = sorted({p.patient_id for p in predictions})
    by_level = classification_items(predictions, target, patients, aggregation=aggregate)
    if not any(len(items.label) for items in by_level.values()):
        raise HistomakeError("no test patch, slide or patient has a label: there is nothing to evaluate against")
    rows: list[MetricRow] = []
    for level, items in by_level.items():
        if len(items.label):
            weights = patient_weights(items.patient, len(patients), seed=seed, bootstraps=bootstraps)
            found = classification_metrics(items, target.classes, weights)
            rows += [{"level": level, **summarise(*key, values)} for key, values in found.items()]
    record = {
        "kind": kind,
        "classes": list(target.classes),
        "seed": seed,
        "bootstraps": bootstraps,
        "aggregate": aggregate,
        "interval_percent": list(INTERVAL),
        "patients": len(patients),
        "slides": len(predictions),
        "levels": {level: _level_record(level, items, target.classes, rows) for level, items in by_level.items()},
    }
    return Evaluation(record, rows, by_level)


def _level_record(level: str, items: Items, classes: Sequence[str], rows: list[MetricRow]) -> dict[str, Any]:
    confusion = _confusion(items, len(classes), np.ones((1, items.patient.max(initial=0) + 1)))[0]
    metrics: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["level"] == level:
            content = {key: row[key] for key in ("value", "low", "high", "se", "samples")}
            metrics.setdefault(row["class"] or "all", {})[row["metric"]] = content
    return {
        "count": len(items.label),
        "patients": len(np.unique(items.patient)),
        "per_class": {name: int((items.label == i).sum()) for i, name in enumerate(classes)},
        "confusion": confusion.astype(int).tolist(),
        "metrics": metrics,
    }


def classification_items(
    predictions: Sequence[SlidePrediction], target: Target, patients: Sequence[str], *, aggregation: str
) -> dict[str, Items]:
    """Labelled patches, slides and patients with their scores and decisions."""
    names, position = target.classes, {p: i for i, p in enumerate(patients)}
    patches, slides = [], []
    for prediction in predictions:
        table = prediction.table
        score = np.stack([table[f"score_{name}"].to_numpy() for name in names], axis=1).astype(np.float64)
        label = label_index(table, names)
        patient = position[prediction.patient_id]
        known = label != UNLABELLED
        decided = decide(score[known], prediction.threshold)
        patches.append((score[known], label[known], decided, np.full(int(known.sum()), patient)))
        if len(score):
            pooled = pool_scores(score, aggregation)
            truth = slide_class(target, prediction.labels, label, slide_id=prediction.slide_id)
            slides.append((pooled, truth, prediction.slide_thresholds.get(aggregation, prediction.threshold), patient))
    return {
        "patch": _stack(patches, len(names)),
        "slide": _aggregated(slides, len(names), by_patient=False),
        "patient": _aggregated(slides, len(names), by_patient=True),
    }


def _stack(parts: list[tuple[np.ndarray, ...]], classes: int) -> Items:
    if not parts:
        nothing = np.zeros(0, np.int64)
        return Items(np.zeros((0, classes)), nothing, nothing, nothing)
    return Items(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _aggregated(slides: list[tuple[np.ndarray, int, float, int]], classes: int, *, by_patient: bool) -> Items:
    """Slides as items, or patients: the mean of their labelled slides' scores, and the highest of their classes."""
    labelled = [slide for slide in slides if slide[1] != UNLABELLED]
    groups: dict[int, list[tuple[np.ndarray, int, float, int]]] = {}
    for i, slide in enumerate(labelled):
        groups.setdefault(slide[3] if by_patient else i, []).append(slide)
    parts = []
    for members in groups.values():
        score = np.mean([m[0] for m in members], axis=0, keepdims=True)
        threshold = float(np.mean([m[2] for m in members]))
        label = np.array([max(m[1] for m in members)])
        parts.append((score, label, decide(score, threshold), np.array([members[0][3]])))
    return _stack(parts, classes)


def label_index(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """The label column as int64 positions in ``names``; UNLABELLED where null."""
    numbers = {name: i for i, name in enumerate(names)}
    column = table["label"].combine_chunks().dictionary_decode() if table.num_rows else pa.array([], pa.string())
    return np.array([numbers.get(value, UNLABELLED) for value in column.to_pylist()], np.int64)


def decide(score: np.ndarray, threshold: float) -> np.ndarray:
    """Class int64 (n,): of two, the second from the threshold up; of more, the largest."""
    if score.shape[1] == 2:
        return (score[:, 1] >= threshold).astype(np.int64)
    return score.argmax(axis=1)


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


def summarise(class_name: str, metric: str, values: np.ndarray) -> MetricRow:
    """Value and interval from ``values`` (1 + bootstraps,): the data's first. Undefined values are left out."""
    defined = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(defined, INTERVAL) if len(defined) else (np.nan, np.nan)
    spread = defined.std(ddof=1) if len(defined) > 1 else np.nan
    numbers = {"value": values[0], "low": low, "high": high, "se": spread}
    plain = {key: float(value) if np.isfinite(value) else None for key, value in numbers.items()}
    return {"class": class_name, "metric": metric, **plain, "samples": len(defined)}


def classification_metrics(
    items: Items, classes: Sequence[str], weights: np.ndarray
) -> dict[tuple[str, str], np.ndarray]:
    """Metrics by (class, name), each float64 (1 + bootstraps,); class "" is the whole.

    With two classes the whole is about the second, the positive one; with more it is the mean over classes.
    """
    confusion = _confusion(items, len(classes), weights)
    found: dict[tuple[str, str], np.ndarray] = {}
    for i, name in enumerate(classes):
        for metric, values in _one_class(items, i, confusion, weights).items():
            found[name, metric] = values
    with np.errstate(invalid="ignore", divide="ignore"):
        for metric in dict.fromkeys(metric for _, metric in found):
            each = [found[name, metric] for name in classes]
            found["", metric] = each[1] if len(classes) == 2 else np.mean(each, axis=0)
        total = confusion.sum((1, 2))
        recall = np.diagonal(confusion, axis1=1, axis2=2) / confusion.sum(2)
        found["", "accuracy"] = np.trace(confusion, axis1=1, axis2=2) / total
        found["", "balanced_accuracy"] = recall.mean(1)
        found["", "mcc"] = matthews(confusion)
        found["", "ece"] = calibration_error(calibration_bins(items, weights))
    return found


def _one_class(items: Items, i: int, confusion: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Class ``i`` against the rest."""
    hit = confusion[:, i, i]
    true, called, total = confusion[:, i].sum(1), confusion[:, :, i].sum(1), confusion.sum((1, 2))
    positive, negative = score_histograms(items.score[:, i], items.label == i, items.patient, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "auroc": area_under_roc(positive, negative),
            "auprc": average_precision(positive, negative),
            "sensitivity": hit / true,
            "specificity": (total - true - called + hit) / (total - true),
            "f1": 2 * hit / (true + called),
        }


def _confusion(items: Items, classes: int, weights: np.ndarray) -> np.ndarray:
    """Weighted counts (samples, true class, predicted class)."""
    cell = (items.patient * classes + items.label) * classes + items.predicted
    counts = np.bincount(cell, minlength=weights.shape[1] * classes**2).reshape(weights.shape[1], -1)
    return (weights @ counts).reshape(-1, classes, classes)


def score_histograms(
    score: np.ndarray, positive: np.ndarray, patient: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted counts of positives and of negatives over ascending scores, each (samples, bins).

    One bin per distinct score up to SCORE_BINS of them, and quantile bins beyond: what shares a bin counts as a tie,
    which moves an area by less than one part in SCORE_BINS.
    """
    edges = np.unique(score)
    if len(edges) > SCORE_BINS:
        edges = np.unique(np.quantile(score, np.linspace(0, 1, SCORE_BINS), method="lower"))
    bins = np.searchsorted(edges, score, side="right") - 1
    cell = patient * len(edges) + bins
    size = weights.shape[1] * len(edges)
    pos, neg = (np.bincount(cell[chosen], minlength=size).reshape(-1, len(edges)) for chosen in (positive, ~positive))
    return weights @ pos, weights @ neg


def area_under_roc(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Probability that a positive scores above a negative, ties half (Mann-Whitney U / nm); inputs (samples, bins)."""
    below = np.cumsum(negative, axis=1) - negative
    pairs = (positive * (below + negative / 2)).sum(1)
    return pairs / (positive.sum(1) * negative.sum(1))


def average_precision(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Area under the precision-recall steps, Σ (Rᵢ − Rᵢ₋₁) Pᵢ; inputs (samples, bins) by ascending score."""
    hits = np.cumsum(positive[:, ::-1], axis=1)
    called = hits + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    return (positive[:, ::-1] * precision).sum(1) / positive.sum(1)


def matthews(confusion: np.ndarray) -> np.ndarray:
    """Matthews correlation for any number of classes (Gorodkin 2004) of (samples, true, predicted)."""
    total = confusion.sum((1, 2))
    right = np.trace(confusion, axis1=1, axis2=2)
    true, called = confusion.sum(2), confusion.sum(1)
    numerator = right * total - (true * called).sum(1)
    return numerator / np.sqrt((total**2 - (called**2).sum(1)) * (total**2 - (true**2).sum(1)))


def calibration_bins(items: Items, weights: np.ndarray) -> np.ndarray:
    """Count, sum of confidence and number right per confidence bin, (samples, 3, CALIBRATION_BINS).

    Confidence is the largest class score (Guo et al. 2017).
    """
    confidence = items.score.max(1)
    right = items.score.argmax(1) == items.label
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    cell, size = items.patient * CALIBRATION_BINS + bins, weights.shape[1] * CALIBRATION_BINS
    sums = [np.bincount(cell, weights=w, minlength=size) for w in (None, confidence, right)]
    return np.stack([weights @ s.reshape(-1, CALIBRATION_BINS) for s in sums], axis=1)


def calibration_error(bins: np.ndarray) -> np.ndarray:
    """Expected calibration error (Naeini et al. 2015): mean |accuracy − confidence| over bins, by their counts."""
    return np.abs(bins[:, 2] - bins[:, 1]).sum(1) / bins[:, 0].sum(1)
