"""Owns a training run in a process of its own, for tests that kill it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histomake.config import Task
from histomake.layout import Layout
from histomake.learn.data import SlideEntry
from histomake.learn.train import train
from small_cohort import CLASSES, GRID_NAME


def main(root: Path, task: dict[str, Any], output: Path) -> None:
    """Train on the first slides of the cohort in ``root``, validate on the last."""
    entries = [SlideEntry.at(Layout(root), GRID_NAME, f"s{i}", f"p{i}", {}) for i in range(3)]
    train(
        Task.model_validate(task),
        train=entries[:2],
        val=entries[2:],
        class_names=CLASSES,
        output=output,
        state=output.with_name(f"{output.name}.state"),
        seed=7,
        threads=1,
    )
