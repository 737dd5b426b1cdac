"""Prediction of a slide by a cascade of patch classifiers."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from histomake.base.records.patch_cascade import PatchCascadeRecord
from histomake.base.records.record import Quarantined
from histomake.cascade.patch_cascade import (
    Decided,
    StagePatches,
    cascade_table,
    dense_pixels,
    pixels_read,
    run_stages,
    stage_costs,
)
from histomake.cascade.stage_scores import NetworkScores, Stage
from histomake.config import StageThresholds
from histomake.learn.data.patch_index import usable_patches


@dataclass(frozen=True)
class CascadePrediction:
    """What a cascade predicts on a slide, and what it cost."""

    stages: list[StagePatches]
    decided: list[Decided]
    record: PatchCascadeRecord

    @property
    def table(self) -> pa.Table:
        """The patches of the finest grid."""
        return cascade_table(self.stages, self.decided)


def predict_cascade(
    stages: Sequence[Stage], class_name: str, thresholds: StageThresholds, *, threads: int
) -> CascadePrediction | Quarantined:
    """Predict a slide with a cascade of stages, coarsest first, or return its quarantine entry.

    Raises ConfigError if a stage does not have the class, and SlideError if a patch is damaged.
    """
    started = time.perf_counter()
    _, usable = usable_patches(stages[-1].entry)
    if isinstance(usable, Quarantined):
        return usable
    answers = NetworkScores(stages, class_name, threads=threads)
    decided = run_stages(answers.patches, answers, thresholds)
    alone, costs = dense_pixels(answers.patches), stage_costs(answers.patches, decided)
    on_gpu = any(stage.predictor.runtime.device.type != "cpu" for stage in stages)
    record = PatchCascadeRecord(
        slide_id=stages[-1].entry.slide_id,
        stages=costs,
        saved=1 - pixels_read(answers.patches, decided) / alone if alone else 0.0,
        seconds=time.perf_counter() - started,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        gpu_seconds=sum(done.seconds for done in decided) if on_gpu else 0.0,
    )
    return CascadePrediction(answers.patches, decided, record)
