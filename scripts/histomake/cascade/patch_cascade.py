"""Cascades over patches: classifiers on coarse grids decide which patches of finer grids are computed.

The decision is that of the pixel cascade (`histomake.cascade.run.decide`) on one probability, that of the target class.
Any classifier trained by `histomake.learn.train` can be a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from histomake.base.errors import ConfigError
from histomake.base.records.manifest import Manifest
from histomake.base.records.patch_cascade import PatchCascadeRecord, StageCost
from histomake.base.records.record import Quarantined, quarantined
from histomake.base.units import rescale
from histomake.cascade.run import ACCEPTED, COMPUTED, REJECTED, decide
from histomake.learn.data.patch_index import PatchIndex, SlideEntry
from histomake.learn.data.reading import PatchReader
from histomake.learn.inference.predict import Predictor, predict_batches, slide_patches
from histomake.patch.table import read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

STATES = ("rejected", "computed", "accepted")


@dataclass(frozen=True)
class Stage:
    """One magnification: a trained classifier, the slide with the patch table of its grid, and thresholds.

    ``lower`` and ``upper`` apply to this stage's score and decide on patches of the next finer stage. They are not used
    at the finest stage.
    """

    predictor: Predictor
    entry: SlideEntry
    lower: float
    upper: float


@dataclass(frozen=True)
class _Scored:
    """Patches of a stage: their score, their state, and the stage (0 coarsest) that computed the score."""

    patches: PatchIndex
    score: NDArray[np.float32]
    state: NDArray[np.uint8]
    decided_by: NDArray[np.uint8]


def cascade_patches(
    stages: Sequence[Stage], class_name: str, *, batch: int, threads: int
) -> tuple[pa.Table, PatchCascadeRecord | Quarantined]:
    """Predict a slide with a cascade of stages, coarsest first.

    The coarser patch that contains the centre of a patch decides on it. If there is none, because that area was
    excluded on the coarser grid, the patch is computed.

    Returns:
        The patches of the finest grid: patch_id uint32; x, y int32; score float32 of ``class_name``, from the stage
        that decided; state (rejected, computed, accepted); stage uint8 (1 coarsest) that decided. And the record of
        what each stage computed, or the quarantine entry of the slide.

    Raises:
        ConfigError: A stage does not have the class, or is not finer than the previous one.
    """
    _check(stages, class_name)
    scored: _Scored | None = None
    spent: list[StageCost] = []
    for position, stage in enumerate(stages):
        patches = slide_patches(stage.predictor, stage.entry)
        if patches is None:
            _, record = read_table(stage.entry.table)
            lost = quarantined(record)
            return _table(None), lost or PatchCascadeRecord(slide_id=record.slide_id, stages=[], saved=0.0)
        start = _everything(patches) if scored is None else _inherit(scored, stages[position - 1], patches)
        wanted = np.flatnonzero(start.state == COMPUTED)
        start.decided_by[wanted] = position
        start.score[wanted] = _scores(stage, patches.take(wanted), class_name, batch=batch, threads=threads)
        scored = start
        spent.append(StageCost(mpp=patches.mpp, patches=len(patches), computed=len(wanted), pixels=patches.size**2))
    read = sum(stage.computed * stage.pixels for stage in spent)
    alone = spent[-1].patches * spent[-1].pixels
    return _table(scored), PatchCascadeRecord(slide_id=stages[0].entry.slide_id, stages=spent, saved=1 - read / alone)


def _check(stages: Sequence[Stage], class_name: str) -> None:
    for stage in stages:
        if class_name not in stage.predictor.class_names:
            known = ", ".join(stage.predictor.class_names)
            raise ConfigError(
                f"cascade: the model on grid {stage.predictor.task.grid} has the classes {known}, but not {class_name}"
            )
    mpps = [stage.predictor.card.grid.mpp for stage in stages]
    if any(fine >= coarse for coarse, fine in pairwise(mpps)):
        raise ConfigError(
            f"cascade: each stage must be finer than the previous one, but they have "
            f"{', '.join(f'{m:g}' for m in mpps)} µm/px"
        )


def _everything(patches: PatchIndex) -> _Scored:
    n = len(patches)
    return _Scored(patches, np.zeros(n, np.float32), np.full(n, COMPUTED, np.uint8), np.zeros(n, np.uint8))


def _inherit(coarse: _Scored, stage: Stage, patches: PatchIndex) -> _Scored:
    """Return scores and states of finer patches, from the coarser patches around their centres."""
    parent = _parents(coarse.patches, patches, stage)
    known = parent >= 0
    score = np.where(known, coarse.score[parent], 0).astype(np.float32)
    inherited = known & (coarse.state[parent] == ACCEPTED)
    state = decide(np.stack([np.zeros_like(score), score]), inherited, lower=stage.lower, upper=stage.upper)
    # Patches rejected at a coarser stage stay rejected, independent of their score.
    state[known & (coarse.state[parent] == REJECTED)] = REJECTED
    state[~known] = COMPUTED
    return _Scored(patches, score, state, np.where(known, coarse.decided_by[parent], 0).astype(np.uint8))


def _parents(coarse: PatchIndex, fine: PatchIndex, stage: Stage) -> NDArray[np.int64]:
    """Return the index of the coarse patch nearest to each fine patch's centre and containing it, or -1."""
    mpp = Manifest.read_usable(stage.entry.manifest).mpp
    step, span = (rescale(length, coarse.mpp, mpp) for length in (coarse.stride, coarse.size))
    half = rescale(fine.size, fine.mpp, mpp) / 2
    cells = {
        cell: i
        for i, cell in enumerate(zip(np.rint(coarse.x / step).tolist(), np.rint(coarse.y / step).tolist(), strict=True))
    }
    # The patch with the nearest centre is used; if patches overlap, several contain the point.
    columns, rows = (np.rint((c + half - span / 2) / step).astype(int) for c in (fine.x, fine.y))
    found = np.array([cells.get(cell, -1) for cell in zip(columns.tolist(), rows.tolist(), strict=True)], np.int64)
    inside = np.ones(len(fine), bool)
    for centre, start in ((fine.x + half, coarse.x), (fine.y + half, coarse.y)):
        offset = centre - start[found]
        inside &= (offset >= 0) & (offset < span)
    return np.where(inside, found, -1)


def _scores(stage: Stage, patches: PatchIndex, class_name: str, *, batch: int, threads: int) -> NDArray[np.float32]:
    """Return scores float32 (n,) of the target class."""
    column = stage.predictor.class_names.index(class_name)
    out = np.zeros(len(patches), np.float32)
    if len(patches):
        reader = PatchReader(patches, stage.predictor.task.model, stain=stage.predictor.stain)
        for index, found in predict_batches(stage.predictor, reader, batch=batch, threads=threads, flips=False):
            out[index] = found[:, column]
    return out


def _table(scored: _Scored | None) -> pa.Table:
    schema = pa.schema(
        [
            ("patch_id", pa.uint32()),
            ("x", pa.int32()),
            ("y", pa.int32()),
            ("score", pa.float32()),
            ("state", pa.dictionary(pa.int8(), pa.string())),
            ("stage", pa.uint8()),
        ]
    )
    if scored is None:
        return schema.empty_table()
    p = scored.patches
    state = pa.DictionaryArray.from_arrays(pa.array(scored.state.astype(np.int8)), pa.array(STATES))
    return pa.table([p.patch_id, p.x, p.y, scored.score, state, scored.decided_by + 1], schema=schema)
