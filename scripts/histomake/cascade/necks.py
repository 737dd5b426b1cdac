"""Choice of the necks at which touching nuclei are parted, on validation patients."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.records.cascade_thresholds import Parting, ScoredNeck
from histomake.cascade.infer import whole_labels
from histomake.cascade.measures import Scores, score
from histomake.cascade.run import run_cascade
from histomake.cascade.search import Case
from histomake.cells.parting import depth_px, part_array
from histomake.config import SEARCHED, CascadeThresholds, Radhical

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

NECKS_UM = (None, 1.5, 1.0, 0.75, 0.5, 0.375, 0.25)
"""What is tried, from the one that parts least."""


def choose_parting(cases: Sequence[Case], thresholds: CascadeThresholds, config: Radhical) -> Parting:
    """Return the parting of the nuclei that the cascade finds with ``thresholds``.

    That of `NECKS_UM` with the highest F of objects (IoU 0.5), as the mean over patients, is chosen; of equal ones the
    one that parts least. With ``neck_um`` in the configuration it is scored and used. Only slides with annotated nuclei
    count, and there is at least one.
    """
    annotated = [case for case in cases if case.truth.any()]
    masks = [_mask(case, thresholds, config.block_px) for case in annotated]
    necks = NECKS_UM if config.neck_um == SEARCHED else (config.neck_um,)
    tried = [_scored(neck, annotated, masks, complete=config.train.complete) for neck in necks]
    best = max(tried, key=lambda trial: trial.object_f1)  # of equal ones the first
    log.info("nuclei are parted with neck_um %s: F of objects %.4f", best.neck_um, best.object_f1)
    return Parting(neck_um=best.neck_um, tried=tuple(tried))


def _mask(case: Case, thresholds: CascadeThresholds, block: int) -> NDArray[np.bool_]:
    levels = case.levels[: len(thresholds.lower) + 1]
    maps = run_cascade(levels, case.answers, thresholds, block=block)
    return whole_labels(maps[-1], cut=thresholds.cut) > 0


def _scored(
    neck_um: float | None, cases: Sequence[Case], masks: Sequence[NDArray[np.bool_]], *, complete: bool
) -> ScoredNeck:
    patients: dict[str, list[Scores]] = {}
    for case, mask in zip(cases, masks, strict=True):
        found = part_array(mask, depth_px(neck_um, case.levels[0].mpp))
        patients.setdefault(case.patient_id, []).append(score(found, case.truth, complete=complete))

    def means(name: str) -> Iterator[float]:
        return (float(np.mean([getattr(one, name) for one in slides])) for slides in patients.values())

    names = ("object_f1", "pq", "f", "count_error")
    return ScoredNeck(neck_um=neck_um, **{name: float(np.mean(list(means(name)))) for name in names})
