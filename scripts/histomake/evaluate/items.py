"""What is evaluated: patches, slides and patients of known truth, or the pixels of a segmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from histomake.base.kinds import Kind
from histomake.config import Target
from histomake.evaluate.patient_truth import Rule
from histomake.target.kinds import LEARNED, slide_target
from histomake.target.outputs import outputs_of
from histomake.target.pooling import Threshold, pool_scores
from histomake.target.targets import JOINER, UNLABELLED, is_known

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SlidePrediction:
    """Predictions of one fold's model for one test slide.

    threshold: of patches; slide_thresholds: of the slide, by the way patches are pooled; labels: the slide's row of the
    sheet.
    """

    slide_id: str
    patient_id: str
    fold: int
    table: pa.Table
    threshold: Threshold = 0.5
    slide_thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Items:
    """Items of one level, n of them, all of known truth.

    score: float64 (n, outputs), for segmentation (n, outputs, 3) pixel counts tp, fp, fn; target: int64 (n,), or
    (n, outputs) for several labels and regression, (n, 2) for survival; predicted: like target, or groups int64 (n,),
    empty where there are none; patient: int64 (n,), position among the patients; fold: int64 (n,), that of the model.
    """

    score: np.ndarray
    target: np.ndarray
    predicted: np.ndarray
    patient: np.ndarray
    fold: np.ndarray

    def __len__(self) -> int:
        return len(self.patient)

    def none(self) -> Items:
        """No item, with arrays of the same kind."""
        return Items(self.score[:0], self.target[:0], self.predicted[:0], self.patient[:0], self.fold[:0])


ReadTruth = Callable[[pa.Table, Sequence[str]], "NDArray[Any]"]
"""Truth of a prediction table's patches for the named outputs, shaped and typed as patch targets are."""

Slide = tuple["NDArray[np.floating]", "NDArray[Any]", Threshold, int, int]
"""Pooled score, truth, threshold, patient and fold of a slide."""


def score_items(
    predictions: Sequence[SlidePrediction],
    kind: Kind,
    target: Target,
    patients: Sequence[str],
    aggregation: str,
    of_patient: Rule,
    *,
    truth: ReadTruth,
) -> dict[str, Items]:
    """Patches, slides and patients of known truth, with their scores and decisions.

    ``of_patient`` combines the truth of a patient's slides into one; ``truth`` reads that of patches.
    """
    names, position = outputs_of(kind, target), {patient: i for i, patient in enumerate(patients)}
    patches, slides = [], list[Slide]()
    for prediction in predictions:
        table, patient = prediction.table, position[prediction.patient_id]
        score = np.stack([table[f"score_{name}"].to_numpy() for name in names], axis=1).astype(np.float64)
        true = truth(table, names)
        known = is_known(true)
        decided = _decided(score[known], prediction.threshold, kind)
        owner = (np.full(int(known.sum()), number) for number in (patient, prediction.fold))
        patches.append((score[known], true[known], decided, *owner))
        if len(score):
            pooled = pool_scores(score, aggregation, table["tissue"].to_numpy())
            whole = slide_target(kind, target, prediction.labels, true, slide_id=prediction.slide_id)
            threshold = prediction.slide_thresholds.get(aggregation, prediction.threshold)
            slides.append((pooled, whole, threshold, patient, prediction.fold))
    slides = [slide for slide in slides if is_known(slide[1][None])[0]]
    of_patients = [[slide for slide in slides if slide[3] == patient] for patient in range(len(patients))]
    groups = {"slide": [[slide] for slide in slides], "patient": [group for group in of_patients if group]}
    found: dict[str, list[tuple[NDArray[Any], ...]]] = {"patch": [*patches]}
    for level, of_level in groups.items():
        items = [_pooled(group, kind, of_patient) for group in of_level]
        found[level] = [item for item in items if is_known(item[1])[0]]
    return {level: _stack(items, len(names)) for level, items in found.items()}


def class_truth(table: pa.Table, names: Sequence[str]) -> NDArray[np.int64]:
    """Class of each patch, int64 (n,)."""
    numbers: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    return np.array([numbers.get(value, UNLABELLED) for value in _labels(table)], np.int64)


def label_truth(table: pa.Table, names: Sequence[str]) -> NDArray[np.float64]:
    """Labels of each patch, float64 (n, outputs): 1, 0 or NaN."""
    rows = [[np.nan] * len(names) if v is None else [n in v.split(JOINER) for n in names] for v in _labels(table)]
    return np.array(rows, np.float64).reshape(-1, len(names))


def number_truth(table: pa.Table, names: Sequence[str]) -> NDArray[np.float64]:
    """Numbers of each patch, float64 (n, outputs) or NaN."""
    columns = [table[f"target_{name}"].to_numpy(zero_copy_only=False) for name in names]
    return np.stack(columns, axis=1).astype(np.float64)


def _labels(table: pa.Table) -> list[str | None]:
    return table["label"].combine_chunks().cast(pa.string()).to_pylist() if table.num_rows else []


def differing(slides: Items) -> NDArray[np.int64]:
    """Patients whose slides differ in their truth, sorted; ``slides``: items of slides."""
    owners = np.unique(slides.patient)
    differ = [len(np.unique(slides.target[slides.patient == owner], axis=0)) > 1 for owner in owners]
    return owners[np.array(differ, bool)]


def _decided(score: NDArray[np.float64], threshold: Threshold, kind: Kind) -> NDArray[Any]:
    decide = LEARNED[kind].decide or LEARNED[kind].group
    return np.zeros((len(score), 0)) if decide is None else decide(score, threshold)


def _pooled(slides: Sequence[Slide], kind: Kind, of_patient: Rule) -> tuple[np.ndarray, ...]:
    """Slides of one patient as one item: mean score, combined truth, decision by the mean threshold, patient, fold."""
    score = np.mean([slide[0] for slide in slides], axis=0)[None]
    truth = of_patient(np.stack([slide[1] for slide in slides]))
    threshold = np.mean([slide[2] for slide in slides], axis=0)
    return score, truth[None], _decided(score, threshold, kind), *(np.array([n]) for n in slides[0][3:])


def _stack(parts: Iterable[tuple[np.ndarray, ...]], outputs: int) -> Items:
    columns = list(zip(*parts, strict=True))
    if not columns:
        nothing = np.zeros(0, np.int64)
        return Items(np.zeros((0, outputs)), nothing, nothing, nothing, nothing)
    return Items(*(np.concatenate(column) for column in columns))


def pixel_items(
    predictions: Sequence[SlidePrediction],
    kind: Kind,
    target: Target,
    patients: Sequence[str],
    _aggregation: str,
    _of_patient: Rule,
) -> dict[str, Items]:
    """Pixel counts tp, fp, fn of each output: of all patches together, of each slide, of each patient."""
    names, position = outputs_of(kind, target), {patient: i for i, patient in enumerate(patients)}
    counts = []
    for prediction in predictions:
        counts.append(pixel_counts(prediction.table, names).sum(axis=0))
    patient = np.array([position[prediction.patient_id] for prediction in predictions], np.int64)
    fold = np.array([prediction.fold for prediction in predictions], np.int64)
    slides = np.array(counts).reshape(-1, len(names), 3)
    seen = slides[:, :, [0, 2]].sum((1, 2)) > 0
    slides, patient, fold = slides[seen], patient[seen], fold[seen]
    owners, first = np.unique(patient, return_index=True)
    pooled = np.stack([slides[patient == p].sum(0) for p in owners]) if seen.any() else slides
    nothing = np.zeros(0, np.int64)
    by_slide = Items(slides, nothing, nothing, patient, fold)
    return {"pixel": by_slide, "slide": by_slide, "patient": Items(pooled, nothing, nothing, owners, fold[first])}


def pixel_counts(table: pa.Table, names: Sequence[str]) -> NDArray[np.int64]:
    """Pixel counts tp, fp, fn of each output in each patch, int64 (n, outputs, 3)."""
    columns = [[table[f"{count}_{name}"].to_numpy() for count in ("tp", "fp", "fn")] for name in names]
    return np.moveaxis(np.array(columns, np.int64).reshape(len(names), 3, -1), 2, 0)
