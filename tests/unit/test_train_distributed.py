"""Training in several processes, on CPUs if there are no GPUs."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from histomake.config import Task
from histomake.learn.train import train
from safetensors.torch import load_file
from small_cohort import CLASSES, GRID_NAME, build_cohort


def make_task(**options) -> Task:
    return Task.model_validate(
        {
            "grid": GRID_NAME,
            "target": {"classes": CLASSES},
            "model": {"name": "test_resnet"},
            "train": {"steps": 6, "batch": 4, "validate_every": 3, "workers": 0, "gpus": 2, "audit": True} | options,
        }
    )


def fit(entries, task: Task, root: Path) -> dict:
    places = {"output": root / "model", "state": root / "state"}
    return train(task, train=entries[:2], val=entries[2:], class_names=CLASSES, **places, seed=1, threads=2)


@pytest.mark.timeout(300)
def test_processes_share_each_step_and_leave_one_model(tmp_path: Path) -> None:
    entries = build_cohort(tmp_path / "cohort", 3)
    described = fit(entries, make_task(), tmp_path)
    assert described["step"] in (3, 6)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "model/model.safetensors").values())
    drawn = pq.read_table(tmp_path / "model/training/drawn.parquet").to_pandas()
    assert drawn.groupby(["step", "worker"]).size().tolist() == [4] * 12
    by_worker = [drawn[drawn.worker == worker].patch_id.tolist() for worker in (0, 1)]
    assert by_worker[0] != by_worker[1]
