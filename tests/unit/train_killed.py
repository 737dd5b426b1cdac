"""Owns a training run in a process of its own, for tests that kill it: python train_killed.py <folder> <task.json>."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from histomake.config import Task
from histomake.learn.train import train
from small_cohort import CLASSES, GRID_NAME, Layout, SlideEntry


def main(root: Path, task_file: Path, output: Path) -> None:
    """Train on the first slides of the cohort in ``root``, validate on the last."""
    entries = [SlideEntry.at(Layout(root), GRID_NAME, f"s{i}", f"p{i}", {}) for i in range(3)]
    train(
        Task.model_validate(json.loads(task_file.read_text())),
        train=entries[:2],
        val=entries[2:],
        class_names=CLASSES,
        output=output,
        state=output.with_name(f"{output.name}.state"),
        seed=7,
        threads=1,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
