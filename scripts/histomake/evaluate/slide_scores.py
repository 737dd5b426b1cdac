"""Scores of whole slides and patients: pooled from patches, with the class that the model predicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import Quarantined
from histomake.base.tables import lost_slide
from histomake.cohort.quarantine import check_loss
from histomake.target.kinds import LEARNED
from histomake.target.pooling import Threshold, pool_scores
from histomake.target.targets import JOINER

ALL_FOLDS = "all"
"""Fold of the mean over the models of all folds, where several have predicted a slide."""


class Pooled(msgspec.Struct, frozen=True):
    """A slide's pooled patches: their number, and a score per output; none for a slide without patches.

    ``lost``: why there are none, if the slide turned out to be damaged when it was to be predicted.
    """

    patches: int
    score: list[float]
    lost: Quarantined | None = None


@dataclass(frozen=True)
class PredictedSlide:
    """One slide as one fold's model predicted it.

    ``card``: the model's card; ``validated``: whether the model was validated on the slide.
    """

    slide_id: str
    patient_id: str
    fold: int
    pooled: Pooled
    card: ModelCard
    validated: bool = False


def pool(table: pa.Table, class_names: Sequence[str], aggregate: str) -> Pooled:
    """Pool a prediction table's patches."""
    if not table.num_rows:
        return Pooled(0, [], lost_slide(table))
    columns = [table[f"score_{name}"].to_numpy().astype(np.float64) for name in class_names]
    return Pooled(
        table.num_rows, pool_scores(np.stack(columns, axis=1), aggregate, table["tissue"].to_numpy()).tolist()
    )


def met_damage(slides: Iterable[PredictedSlide], cards: Iterable[ModelCard], *, max_share: float) -> list[Quarantined]:
    """The slides whose damage was met when models were trained or slides predicted, each once per stage and place.

    Raises HistomakeError if more than ``max_share`` of the predicted slides are among them.
    """
    slides = list(slides)
    predicted = [slide.pooled.lost for slide in slides if slide.pooled.lost]
    unique = {entry.slide_id: entry for entry in predicted}
    check_loss(list(unique.values()), slides=len({slide.slide_id for slide in slides}), max_share=max_share)
    found = {(e.slide_id, e.stage, e.detail): e for e in [*(e for card in cards for e in card.left_out), *predicted]}
    return [found[key] for key in sorted(found)]


@dataclass(frozen=True)
class _Pooled:
    slide_id: str
    patient_id: str
    fold: int | str
    patches: int
    score: np.ndarray
    threshold: Threshold
    validated: bool


def score_table(slides: Iterable[PredictedSlide], card: ModelCard, *, aggregate: str) -> pa.Table:
    """One row per slide and per patient, for every fold that predicted it and, if several did, for their mean.

    Columns: level (slide or patient), slide_id (empty for patients), patient_id, fold, patches, score_<output>
    float64, predicted, validated. A slide without patches has no scores; a patient has the mean of the slides that have
    some. The mean over folds is that of models that were not validated on the slide.
    ``card``: of any of the models, for the outputs that all share.
    """
    by_slide = [_judged(slide, aggregate) for slide in slides]
    by_slide += _over_folds(by_slide)
    rows = [("slide", pooled) for pooled in by_slide] + [("patient", p) for p in _by_patient(by_slide)]
    rows.sort(key=lambda row: (row[1].patient_id, row[0], row[1].slide_id, str(row[1].fold)))
    columns: dict[str, list[str] | pa.Array] = {
        "level": [level for level, _ in rows],
        **{key: [getattr(p, key) for _, p in rows] for key in ("slide_id", "patient_id")},
        "fold": [str(p.fold) for _, p in rows],
        "patches": pa.array([p.patches for _, p in rows], pa.int64()),
    }
    for i, name in enumerate(card.class_names):
        values = np.array([p.score[i] for _, p in rows])
        columns[f"score_{name}"] = pa.array(values, pa.float64(), mask=np.isnan(values))
    columns["predicted"] = pa.array([_decision(p, card) for _, p in rows], pa.string())
    columns["validated"] = pa.array([p.validated for _, p in rows], pa.bool_())
    return pa.table(columns)


def _judged(slide: PredictedSlide, aggregate: str) -> _Pooled:
    card, pooled = slide.card, slide.pooled
    score = np.array(pooled.score) if pooled.patches else np.full(len(card.class_names), np.nan)
    threshold = card.slide_thresholds.get(aggregate, card.threshold)
    return _Pooled(slide.slide_id, slide.patient_id, slide.fold, pooled.patches, score, threshold, slide.validated)


def _over_folds(pooled: Iterable[_Pooled]) -> list[_Pooled]:
    groups: dict[str, list[_Pooled]] = {}
    for one in pooled:
        if not one.validated:
            groups.setdefault(one.slide_id, []).append(one)
    return [
        _Pooled(slide_id, group[0].patient_id, ALL_FOLDS, group[0].patches, *_means(group), validated=False)
        for slide_id, group in groups.items()
        if len(group) > 1
    ]


def _by_patient(pooled: Iterable[_Pooled]) -> list[_Pooled]:
    groups: dict[tuple[str, int | str], list[_Pooled]] = {}
    for one in pooled:
        groups.setdefault((one.patient_id, one.fold), []).append(one)
    found = []
    for (patient, fold), group in groups.items():
        scored = [one for one in group if one.patches] or group
        patches, validated = sum(one.patches for one in group), any(one.validated for one in group)
        found.append(_Pooled("", patient, fold, patches, *_means(scored), validated=validated))
    return found


def _means(group: Sequence[_Pooled]) -> tuple[np.ndarray, Threshold]:
    score = np.mean([one.score for one in group], axis=0)
    return score, np.mean([one.threshold for one in group], axis=0)


def _decision(pooled: _Pooled, card: ModelCard) -> str | None:
    decide = LEARNED[card.kind].decide
    if decide is None or np.isnan(pooled.score).all():
        return None
    found = decide(pooled.score[None], pooled.threshold)[0]
    names = card.class_names
    return JOINER.join(np.array(names, object)[found]) if found.ndim else names[int(found)]
