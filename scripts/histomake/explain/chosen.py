"""Owns which patches are worth explaining: those asked for by their place, and those that a rule finds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from histomake.base.errors import HistomakeError
from histomake.learn.data.patch_index import SlideEntry
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

REGION_PATCHES = 4
"""Patches explained of a region, evenly over those in it."""

Tested = Sequence[tuple[SlideEntry, pa.Table]]
"""Slides with their predictions."""


@dataclass(frozen=True)
class Chosen:
    """A patch to explain and why it was chosen."""

    slide: int
    row: int
    reason: str


@dataclass(frozen=True)
class Ranking:
    """Rows in the order in which they are worth a look for one reason."""

    reason: str
    rows: NDArray[np.int64]


def asked_for(
    points: Iterable[tuple[str, int, int]],
    regions: Iterable[tuple[str, int, int, int, int]],
    tested: Tested,
) -> list[Chosen]:
    """The predicted patches that hold the points, and some of those whose centre lies in the regions.

    Points and regions (slide, x, y and for regions width, height in level-0 pixels) on slides that this fold does not
    test are passed over. Raises HistomakeError for a point that no predicted patch holds.
    """
    number = {entry.slide_id: i for i, (entry, _) in enumerate(tested)}
    chosen: list[Chosen] = []
    for slide_id, x, y, *size in (*points, *regions):
        if slide_id not in number:
            log.warning("explain: %s is no test slide of this fold; nothing is explained on it", slide_id)
            continue
        entry, table = tested[number[slide_id]]
        span = SlideGrid.of_table(read_table(entry.table)[1]).span
        left, top = table["x"].to_numpy(), table["y"].to_numpy()
        if size:
            across, down = left + span / 2 - x, top + span / 2 - y
            rows = np.flatnonzero((across >= 0) & (across < size[0]) & (down >= 0) & (down < size[1]))
            chosen += [Chosen(number[slide_id], int(row), "in a region") for row in evenly(rows, REGION_PATCHES)]
            continue
        rows = np.flatnonzero((left <= x) & (x < left + span) & (top <= y) & (y < top + span))
        if not len(rows):
            raise HistomakeError(f"explain.shap_at: no predicted patch of {slide_id} holds ({x}, {y}); is it tissue?")
        chosen.append(Chosen(number[slide_id], int(rows[0]), "asked for"))
    return chosen


def evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most ``most`` rows, evenly over them."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def choose(tables: Sequence[pa.Table], count: int, kind: str = "classification") -> list[Chosen]:
    """At most ``count`` patches: a third of the first reason, a third of the second, the rest even over the others.

    ``kind``: classification, multi_label, regression or segmentation; which says what is worth a look.
    """
    rows = [(s, r) for s, table in enumerate(tables) for r in range(table.num_rows)]
    if not rows:
        return []
    ranked = rankings(pa.concat_tables(tables, promote_options="permissive"), kind)
    taken: dict[int, str] = {}

    def take(ranking: Ranking, most: int) -> None:
        free = [int(i) for i in ranking.rows if int(i) not in taken]
        taken.update(dict.fromkeys(free[: max(0, min(most, count - len(taken)))], ranking.reason))

    for ranking in ranked[:2]:
        take(ranking, count // 3)
    for i, ranking in enumerate(ranked[2:]):
        take(ranking, -(-(count - len(taken)) // (len(ranked) - 2 - i)))
    return [Chosen(*rows[i], reason) for i, reason in taken.items()]


def rankings(table: pa.Table, kind: str) -> list[Ranking]:
    """What is worth a look in predictions of a kind of task; the two most telling reasons first."""
    outputs = [name.removeprefix("score_") for name in table.column_names if name.startswith("score_")]
    scores = np.stack([table[f"score_{name}"].to_numpy() for name in outputs], axis=1)
    if kind == "regression":
        return _of_numbers(table, outputs, scores)
    if kind == "segmentation":
        return _of_pixels(table, outputs, scores)
    label, predicted = (np.array(table[c].cast(pa.string()).to_pylist(), object) for c in ("label", "predicted"))
    certainty = np.maximum(scores, 1 - scores).min(axis=1) if kind == "multi_label" else scores.max(axis=1)
    wrong = np.flatnonzero([a is not None and a != b for a, b in zip(label, predicted, strict=True)])
    return [
        Ranking("misclassified", wrong[np.argsort(-certainty[wrong], kind="stable")]),
        Ranking("least certain", np.argsort(certainty, kind="stable")),
        *(Ranking(f"surest {n}", np.argsort(-c, kind="stable")) for n, c in zip(outputs, scores.T, strict=True)),
    ]


def _of_numbers(table: pa.Table, outputs: list[str], scores: NDArray[np.floating]) -> list[Ranking]:
    targets = np.stack([table[f"target_{name}"].to_numpy(zero_copy_only=False) for name in outputs], axis=1)
    error = np.abs(scores - targets.astype(float))
    known = np.flatnonzero(~np.isnan(error).all(axis=1))
    worst = np.nanmax(error[known], axis=1) if len(known) else error[known, 0]
    distance = np.abs(scores - np.median(scores, axis=0)).sum(axis=1)
    return [
        Ranking("largest error", known[np.argsort(-worst, kind="stable")]),
        Ranking("near the median", np.argsort(distance, kind="stable")),
        *(Ranking(f"highest {n}", np.argsort(-c, kind="stable")) for n, c in zip(outputs, scores.T, strict=True)),
        *(Ranking(f"lowest {n}", np.argsort(c, kind="stable")) for n, c in zip(outputs, scores.T, strict=True)),
    ]


def _of_pixels(table: pa.Table, outputs: list[str], scores: NDArray[np.floating]) -> list[Ranking]:
    wrong = np.sum([table[f"fn_{name}"].to_numpy() for name in outputs], axis=0)
    some = np.flatnonzero(wrong)
    return [
        Ranking("most pixels wrong", some[np.argsort(-wrong[some], kind="stable")]),
        Ranking("most mixed", np.argsort(scores.max(axis=1), kind="stable")),
        *(Ranking(f"most {name}", np.argsort(-c, kind="stable")) for name, c in zip(outputs, scores.T, strict=True)),
    ]
