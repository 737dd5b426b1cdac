"""Comparison of a patch cascade with its finest stage alone on one slide: decisions, scores and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from histomake.base.errors import HistomakeError
from histomake.base.records.patch_cascade import PatchCascadeRecord
from histomake.base.records.record import Quarantined
from histomake.cascade.patch_cascade import STATES, run_stages
from histomake.cascade.patch_prediction import predict_cascade
from histomake.cascade.stage_scores import DenseSlide, NetworkScores, Stage
from histomake.config import StageThresholds
from histomake.patch.table import read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALONE = StageThresholds(lower=[], upper=[])
"""Thresholds of the finest stage alone."""


@dataclass(frozen=True)
class SlideComparison:
    """A slide with the scores of the cascade, and what both ways cost.

    cells: number of cells of the finest grid, usable patches or not. identical: whether simulated decisions are those
    of the deployed cascade; difference: the largest of their scores.
    """

    dense: DenseSlide
    fold: int
    score: NDArray[np.float32]
    cascade: PatchCascadeRecord
    alone: PatchCascadeRecord
    identical: bool
    difference: float
    cells: int


def compare_slide(
    stages: Sequence[Stage],
    dense: DenseSlide,
    deployed: pa.Table,
    thresholds: StageThresholds,
    class_name: str,
    *,
    fold: int,
    threads: int,
) -> SlideComparison:
    """Run the cascade and the finest stage alone on a slide, and compare the simulated with the deployed cascade.

    ``deployed``: what the cascade predicted. Raises HistomakeError if it has other patches than ``dense``.
    """
    _warm_up(stages, class_name, threads=threads)
    # The cascade is first, so that what stays in the cache of the disk favours the other.
    found = [predict_cascade(stages, class_name, limits, threads=threads) for limits in (thresholds, ALONE)]
    cascade, alone = (None if isinstance(one, Quarantined) else one.record for one in found)
    simulated = run_stages(dense.stages, dense.answers, thresholds)[-1]
    if cascade is None or alone is None or deployed.num_rows != len(simulated.score):
        raise HistomakeError(f"slide {dense.slide_id}: the cascade predicted other patches; delete its predictions")
    score = deployed["score"].to_numpy()
    states = np.array(STATES)[simulated.state]
    return SlideComparison(
        dense=dense,
        fold=fold,
        score=score,
        cascade=cascade,
        alone=alone,
        identical=bool(np.array_equal(states, deployed["state"].cast("string").to_numpy(zero_copy_only=False))),
        difference=float(np.abs(score - simulated.score).max(initial=0)),
        cells=read_table(stages[-1].entry.table)[0].num_rows,
    )


def _warm_up(stages: Sequence[Stage], class_name: str, *, threads: int) -> None:
    """Run one batch of every stage, so that what libraries do once is not measured."""
    answers = NetworkScores(stages, class_name, threads=threads)
    for number, stage in enumerate(stages):
        if some := min(stage.batch, len(answers.patches[number])):
            answers.of(number, np.arange(some))
