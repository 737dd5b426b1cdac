"""Cascades over patches: classifiers on coarse grids decide which patches of finer grids are computed.

The decision is that of the pixel cascade (`histomake.cascade.run.decide`) on one probability, that of the target class.
There is a single implementation. The deployed cascade runs it with networks, the threshold search and the tests with
stored scores, and the dense baseline is a cascade of the finest stage alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from histomake.base.records.patch_cascade import StageCost
from histomake.base.units import Mpp
from histomake.cascade.run import ACCEPTED, COMPUTED, REJECTED, decide
from histomake.config import StageThresholds
from histomake.learn.data.patch_index import PatchIndex
from histomake.patch.nesting import patches_around

if TYPE_CHECKING:
    from numpy.typing import NDArray

STATES = ("rejected", "computed", "accepted")
"""Names of the states, by their number."""

SCHEMA = pa.schema(
    [
        ("patch_id", pa.uint32()),
        ("x", pa.int32()),
        ("y", pa.int32()),
        ("tissue", pa.float32()),
        ("score", pa.float32()),
        ("state", pa.dictionary(pa.int8(), pa.string())),
        ("stage", pa.uint8()),
    ]
)
"""Columns of what a cascade predicts."""


@dataclass(frozen=True)
class StagePatches:
    """The usable patches of a stage, None if there are none, and the index of the coarser patch around each centre.

    ``parent`` int64 (n,) is -1 where no usable patch of the coarser stage contains the centre.
    """

    patches: PatchIndex | None
    parent: NDArray[np.int64]

    def __len__(self) -> int:
        return 0 if self.patches is None else len(self.patches)


class StageAnswers(Protocol):
    """Source of scores."""

    def of(self, stage: int, wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the scores float32 (k,) of patches ``wanted`` (k,) of a stage, 0 the coarsest."""
        ...


@dataclass(frozen=True)
class Decided:
    """What a stage knows of its patches: score, state, and the stage (0 coarsest) that computed the score.

    ``computed``: number of patches that it scored itself, in ``seconds``, with reading and deciding.
    """

    score: NDArray[np.float32]
    state: NDArray[np.uint8]
    decided_by: NDArray[np.uint8]
    computed: int
    seconds: float


def link_stages(indices: Sequence[PatchIndex | None], mpp: Mpp) -> list[StagePatches]:
    """Connect the patches of all stages of a slide, coarsest first; ``mpp``: of the slide's level 0."""
    linked: list[StagePatches] = []
    coarse: PatchIndex | None = None
    for patches in indices:
        n = 0 if patches is None else len(patches)
        parent = np.full(n, -1, np.int64) if coarse is None or patches is None else patches_around(coarse, patches, mpp)
        linked.append(StagePatches(patches, parent))
        coarse = patches
    return linked


def run_stages(stages: Sequence[StagePatches], answers: StageAnswers, thresholds: StageThresholds) -> list[Decided]:
    """Return what every used stage decided, coarsest first.

    The coarser patch that contains the centre of a patch decides on it. If there is none, because that area was
    excluded on the coarser grid, the patch is computed.

    Args:
        stages: All stages of a slide, coarsest first.
        answers: Source of scores.
        thresholds: Of the used stages but the finest, coarsest first. With fewer than the stages have, the finest
            stages alone are used: with none, the finest everywhere.
    """
    first = len(stages) - len(thresholds.lower) - 1
    found: list[Decided] = []
    for position in range(first, len(stages)):
        started, stage = time.perf_counter(), stages[position]
        if found:
            limits = (thresholds.lower[len(found) - 1], thresholds.upper[len(found) - 1])
            score, state, decided_by = _inherit(found[-1], stage.parent, *limits)
        else:
            score, state = np.zeros(len(stage), np.float32), np.full(len(stage), COMPUTED, np.uint8)
            decided_by = np.zeros(len(stage), np.uint8)
        wanted = np.flatnonzero(state == COMPUTED)
        decided_by[wanted] = position
        if len(wanted):
            score[wanted] = answers.of(position, wanted)
        found.append(Decided(score, state, decided_by, len(wanted), time.perf_counter() - started))
    return found


def stage_costs(stages: Sequence[StagePatches], decided: Sequence[Decided]) -> list[StageCost]:
    """What each used stage with usable patches computed, coarsest first."""
    used = stages[len(stages) - len(decided) :]
    return [
        StageCost(
            mpp=stage.patches.mpp,
            patches=len(stage),
            computed=done.computed,
            pixels=stage.patches.size**2,
            seconds=done.seconds,
        )
        for stage, done in zip(used, decided, strict=True)
        if stage.patches is not None
    ]


def pixels_read(stages: Sequence[StagePatches], decided: Sequence[Decided]) -> int:
    """Number of pixels that all stages read."""
    return sum(cost.computed * cost.pixels for cost in stage_costs(stages, decided))


def dense_pixels(stages: Sequence[StagePatches]) -> int:
    """Number of pixels that the finest stage alone reads."""
    finest = stages[-1].patches
    return 0 if finest is None else len(finest) * finest.size**2


def cascade_table(stages: Sequence[StagePatches], decided: Sequence[Decided]) -> pa.Table:
    """The patches of the finest grid, with the score of the stage that decided; ``stage`` is 1 for the coarsest."""
    patches, last = stages[-1].patches, decided[-1]
    if patches is None:
        return SCHEMA.empty_table()
    state = pa.DictionaryArray.from_arrays(pa.array(last.state.astype(np.int8)), pa.array(STATES))
    columns = [patches.patch_id, patches.x, patches.y, patches.tissue, last.score, state, last.decided_by + 1]
    return pa.table(columns, schema=SCHEMA)


def _inherit(
    coarse: Decided, parent: NDArray[np.int64], lower: float, upper: float
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.uint8]]:
    """Return scores, states and deciding stages of finer patches, from the coarser patches around their centres."""
    known = parent >= 0
    if not len(coarse.score):
        n = len(parent)
        return np.zeros(n, np.float32), np.full(n, COMPUTED, np.uint8), np.zeros(n, np.uint8)
    score = np.where(known, coarse.score[parent], 0).astype(np.float32)
    inherited = known & (coarse.state[parent] == ACCEPTED)
    state = decide(np.stack([np.zeros_like(score), score]), inherited, lower=lower, upper=upper)
    # Patches rejected at a coarser stage stay rejected, independent of their score.
    state[known & (coarse.state[parent] == REJECTED)] = REJECTED
    state[~known] = COMPUTED
    return score, state, np.where(known, coarse.decided_by[parent], 0).astype(np.uint8)
