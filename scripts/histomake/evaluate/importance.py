"""What groups of features are worth to a network on graphs: metrics after features of nodes were exchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histomake.base.records.metrics import FeatureImportance, Importance, LevelMetrics
from histomake.evaluate.bags import with_scores
from histomake.evaluate.items import SlidePrediction
from histomake.evaluate.measuring import Measuring

Permuted = Mapping[tuple[str, str], Sequence[Sequence[SlidePrediction]]]
"""The predictions of all test slides in each permutation, by group of features and scope."""


def permuted_predictions(
    predictions: Sequence[SlidePrediction], tables: Mapping[int, pa.Table], names: Sequence[str], *, level: str
) -> Permuted:
    """The predictions with scores after each permutation.

    Args:
        predictions: Those of the test slides.
        tables: Of `histomake.graphs.importance.permuted_scores`, by fold.
        names: Outputs.
        level: "slide" or "patient": whose ids are in the tables.
    """
    found: dict[tuple[str, str], list[list[SlidePrediction]]] = {}
    for group, scope, repeat in sorted({key for table in tables.values() for key in _keys(table)}):
        parts = {fold: _part(table, group, scope, repeat) for fold, table in tables.items()}
        scores = {
            (fold, row["bag"]): {name: row[f"score_{name}"] for name in names}
            for fold, part in parts.items()
            for row in part.to_pylist()
        }
        found.setdefault((group, scope), []).append([_changed(one, scores, level) for one in predictions])
    return found


def _keys(table: pa.Table) -> list[tuple[str, str, int]]:
    return [
        (row["group"], row["scope"], row["repeat"]) for row in table.select(["group", "scope", "repeat"]).to_pylist()
    ]


def _part(table: pa.Table, group: str, scope: str, repeat: int) -> pa.Table:
    same = (pc.equal(table[name], value) for name, value in (("group", group), ("scope", scope), ("repeat", repeat)))
    first, second, third = same
    return table.filter(pc.and_(first, pc.and_(second, third)))


def _changed(
    prediction: SlidePrediction, scores: Mapping[tuple[int, str], Mapping[str, float]], level: str
) -> SlidePrediction:
    bag = prediction.patient_id if level == "patient" else prediction.slide_id
    told = scores.get((prediction.fold, bag))
    if told is None:
        return prediction
    rows = prediction.table.num_rows
    columns = {name: pa.array(np.full(rows, value), pa.float32()) for name, value in told.items()}
    return replace(prediction, table=with_scores(prediction.table, columns))


def importance(permuted: Permuted, levels: Mapping[str, LevelMetrics], measuring: Measuring) -> Importance:
    """What the metrics of ``levels`` lose in the permutations; nothing of metrics that are not defined."""
    found: Importance = {}
    once = replace(measuring, bootstraps=0)
    measured = [name for name, level in levels.items() if level.metrics]
    for (group, scope), repeats in permuted.items():
        each = [once.levels(predictions, measured, calibrated=False) for predictions in repeats]
        for level in measured:
            for metric, own in levels[level].metrics["all"].items():
                values = [one[level][1].metrics["all"][metric].value for one in each if level in one]
                known = np.array([value for value in values if value is not None])
                if own.value is not None and len(known):
                    here = found.setdefault(group, {}).setdefault(scope, {}).setdefault(level, {})
                    here[metric] = FeatureImportance(
                        permuted=float(known.mean()),
                        loss=float(own.value - known.mean()),
                        spread=float(known.std(ddof=1)) if len(known) > 1 else None,
                        repeats=len(known),
                    )
    return found
