"""Choice of the patches to explain: the requested ones, and the first of each ranking."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from histomake.base.errors import HistomakeError
from histomake.base.kinds import Kind
from histomake.base.records.record import quarantined
from histomake.base.tables import lost_slide
from histomake.base.units import Level0Pixels
from histomake.explain.kinds import EXPLAINED
from histomake.explain.rankings import Ranking
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


Point = tuple[str, Level0Pixels, Level0Pixels]
"""A slide and x, y in level-0 pixels."""

Region = tuple[str, Level0Pixels, Level0Pixels, Level0Pixels, Level0Pixels]
"""A slide and x, y, width and height in level-0 pixels."""


@dataclass(frozen=True)
class Chosen:
    """A patch to explain and why it was chosen."""

    slide: int
    row: int
    reason: str


def asked_for(points: Iterable[Point], regions: Iterable[Region], tested: Tested) -> list[Chosen]:
    """The predicted patches that hold the points, and some of those whose centre lies in the regions.

    Points and regions on slides that this fold does not test, or that are damaged or in quarantine, are skipped.
    Raises HistomakeError for a point that no predicted patch holds.
    """
    number = {entry.slide_id: i for i, (entry, _) in enumerate(tested)}
    chosen: list[Chosen] = []
    for slide_id, x, y, *size in (*points, *regions):
        if slide_id not in number:
            log.warning("explain: %s is not a test slide of this fold; nothing is explained on it", slide_id)
            continue
        entry, table = tested[number[slide_id]]
        record = read_table(entry.table)[1]
        if lost := lost_slide(table) or quarantined(record):
            log.warning("explain: nothing is explained on %s: %s", slide_id, lost.detail)
            continue
        span = SlideGrid.of_table(record).span
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


def choose(tables: Sequence[pa.Table], count: int, kind: Kind, outputs: Sequence[str]) -> list[Chosen]:
    """Choose at most ``count`` patches of prediction tables by the rankings of the kind of task.

    A third has the first reason, a third the second; the rest is divided evenly over the others. ``outputs``: names of
    the network's outputs.
    """
    rows = [(s, r) for s, table in enumerate(tables) for r in range(table.num_rows)]
    if not rows:
        return []
    ranked = EXPLAINED[kind].rankings(pa.concat_tables(tables, promote_options="permissive"), outputs)
    taken: dict[int, str] = {}

    def take(ranking: Ranking, most: int) -> None:
        free = [int(i) for i in ranking.rows if int(i) not in taken]
        taken.update(dict.fromkeys(free[: max(0, min(most, count - len(taken)))], ranking.reason))

    for ranking in ranked[:2]:
        take(ranking, count // 3)
    for i, ranking in enumerate(ranked[2:]):
        take(ranking, -(-(count - len(taken)) // (len(ranked) - 2 - i)))
    return [Chosen(*rows[i], reason) for i, reason in taken.items()]
