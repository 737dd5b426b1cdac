"""Training in several processes, on CPUs if there are no GPUs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import torch
from cascade_slide import discs
from histomake.base.layout import Layout
from histomake.cascade.net import load_network
from histomake.cascade.train import train_slides
from histomake.config import Annotations, Grid, Radhical, Task
from histomake.learn.train import train
from safetensors.torch import load_file
from small_cohort import CLASSES, GRID_NAME, MPP, SIDE, build_cohort, build_slide


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
    assert described.step in (3, 6)
    assert all(value.isfinite().all() for value in load_file(tmp_path / "model/model.safetensors").values())
    drawn = pq.read_table(tmp_path / "model/training/drawn.parquet").to_pandas()
    assert drawn.groupby(["step", "worker"]).size().tolist() == [4] * 12
    by_worker = [drawn[drawn.worker == worker].patch_id.tolist() for worker in (0, 1)]
    assert by_worker[0] != by_worker[1]


@pytest.mark.timeout(300)
def test_processes_share_each_step_of_a_cascades_level(tmp_path: Path) -> None:
    """From slides and masks on disk, with loader processes that read the same mask file."""
    entry = build_slide(Layout(tmp_path), "s0", seed=0, grid=Grid(size=64, mpp=MPP))
    _, labels = discs(SIDE, SIDE, number=40)
    tifffile.imwrite(tmp_path / "mask.tif", labels.astype(np.uint16))
    settings = {"steps": 4, "batch": 2, "lattice": 2, "gpus": 2, "workers": 2}
    train_slides(
        [(entry.manifest, tmp_path / "mask.tif")],
        1,
        annotations=Annotations(),
        config=Radhical(mpp=MPP, scales=[1.0, 0.5], train=settings),
        output=tmp_path / "level1",
        state=tmp_path / "state",
        seed=0,
        threads=2,
    )
    weights = load_network(tmp_path / "level1", torch.device("cpu")).state_dict()
    assert all(value.isfinite().all() for value in weights.values())
    assert (tmp_path / "level1/points.parquet").exists()
