"""The patch cascade of a finished cohort: its settings, and what its jobs leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from histomake.base.records.patch_cascade import PatchCascadeRecord, StageCost
from histomake.base.records.patch_cascade_metrics import (
    ComparedMetric,
    ComparedPatches,
    FrontPoint,
    PatchCascadeMetrics,
    StageTotal,
)
from histomake.base.records.patch_thresholds import PatchThresholdsRecord, TriedThresholds
from histomake.cascade.patch_cascade import SCHEMA, STATES

from tests import sample_records
from tests.bench.finished_patches import GRID_OF, LATTICES, positions, usable

STAGES = ["coarse", "tissue_kind"]
LOWER, UPPER = 0.3, 0.9
COMPUTED = 0.2
"""Share of the finest patches that the finest stage scores."""


def add_cascade(config: dict[str, Any]) -> None:
    """Add a cascade of the task of the demo and a coarser one, which leaves slides to predict to the cascade."""
    config["grids"]["x2"] = {"mpp": 4.0, "size": 64}
    fine = config["tasks"]["tissue_kind"]
    alone = {"grid": "x2", "split": {"like": "tissue_kind"}, "predict": {"roles": ["test"]}}
    config["tasks"]["coarse"] = fine | alone
    config["cascades"] = {"nuclei": {"class_name": "nuclei", "stages": STAGES}}


def cascade_table(wildcards: Mapping[str, str], number: int) -> pa.Table:
    """Return what a cascade predicts of a slide: most patches inherit the score of a coarse one."""
    random, kept, places = np.random.default_rng(number), usable("x10", number), positions("x10")
    columns = [values[kept] for values in places.values()]
    count = len(columns[0])
    score, state = random.random(count).astype(np.float32), (random.random(count) < COMPUTED).astype(np.int8)
    columns += [random.random(count).astype(np.float32), score]
    stage = pa.array((1 + state).astype(np.uint8))
    return pa.table([*columns, pa.DictionaryArray.from_arrays(pa.array(state), pa.array(STATES)), stage], schema=SCHEMA)


def cascade_record(slide: str) -> PatchCascadeRecord:
    """Return the record of a cascade on a slide."""
    return PatchCascadeRecord(
        slide_id=slide, stages=_costs(), saved=0.74, seconds=9.0, peak_memory_mb=900.0, gpu_seconds=0.0
    )


def thresholds(wildcards: Mapping[str, str]) -> PatchThresholdsRecord:
    """Return the thresholds of a fold."""
    chosen = TriedThresholds(lower=[LOWER], upper=[UPPER], method="joint", auroc=0.95, cost=0.26)
    return PatchThresholdsRecord(
        class_name="nuclei",
        stages=STAGES,
        rule="max_loss",
        dense_auroc=0.955,
        chosen=chosen,
        trials=2,
        front=[chosen],
        slides=["S00001"],
        left_out=[],
    )


def trials(wildcards: Mapping[str, str], number: int) -> pa.Table:
    """Return the thresholds that were tried in a fold."""
    found = {"method": ["joint", "joint"], "f": [0.95, 0.955], "cost": [0.26, 0.4]}
    limits = {"lower1": [LOWER, 0.2], "upper1": [UPPER, 1.0]}
    return pa.table(found | limits | {"on_front": [True, True], "chosen": [True, False]})


def metrics(wildcards: Mapping[str, str]) -> PatchCascadeMetrics:
    """Return the comparison of the cascade with its finest stage alone."""
    stages = [
        StageTotal(task=task, mpp=cost.mpp, patches=cost.patches, computed=cost.computed, pixels=10**6, seconds=4.0)
        for task, cost in zip(STAGES, _costs(), strict=True)
    ]
    value = sample_records.metric(0.95, 0.93, 0.97)
    return PatchCascadeMetrics(
        class_name="nuclei",
        patients=2,
        metrics={"auroc": ComparedMetric(dense=value, cascade=value, lost=sample_records.metric(0.0, -0.01, 0.01))},
        stages=stages,
        saved=0.74,
        seconds_dense=60.0,
        seconds_cascade=18.0,
        gpu_seconds=0.0,
        peak_memory_mb=900.0,
        break_even=0.8,
        simulated_identical=True,
        slides=[_compared(f"S{number:05d}") for number in range(2)],
        front=[FrontPoint(lower=[LOWER], upper=[UPPER], cost=0.26, seconds=9.0, auroc=0.95, chosen=True)],
        left_out=[],
    )


def metrics_text() -> str:
    """Return the table of compared slides, CSV."""
    rows = [msgspec.structs.asdict(slide) for slide in metrics({}).slides]
    return pd.DataFrame(rows).drop(columns="stages").to_csv(index=False)


def _costs() -> list[StageCost]:
    found = []
    for task, share in zip(STAGES, (1.0, COMPUTED), strict=True):
        grid, _, patches, _ = LATTICES[GRID_OF[task]]
        kept = patches // 2
        cost = StageCost(mpp=grid.mpp, patches=kept, computed=round(share * kept), pixels=grid.size**2, seconds=4.0)
        found.append(cost)
    return found


def _compared(slide: str) -> ComparedPatches:
    return ComparedPatches(
        slide_id=slide,
        patient_id="patient-00000",
        fold=0,
        patches=625,
        tissue=0.5,
        positive=100,
        auroc_dense=0.955,
        auroc_cascade=0.95,
        stages=_costs(),
        saved=0.74,
        seconds_dense=30.0,
        seconds_cascade=9.0,
        peak_memory_mb=900.0,
        gpu_seconds=0.0,
        simulated_identical=True,
        simulated_difference=0.0,
    )
