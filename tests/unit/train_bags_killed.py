"""A training run on bags in a process of its own, to be killed."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import killed
from histomake.bags.training import train_bags
from histomake.config import Task
from histomake.learn.data.patch_index import SlideEntry


def main(task: dict[str, Any], entries: Sequence[SlideEntry], files: dict[str, Path], folder: Path) -> None:
    """Train on the first four slides, validate on the others."""
    train_bags(
        Task.model_validate(task),
        train=entries[:4],
        val=entries[4:],
        files=files,
        column="a",
        output=folder / "model",
        state=folder / "state",
        seed=1,
        threads=1,
    )


def kill_repeatedly(
    task: Task, entries: Sequence[SlideEntry], files: dict[str, Path], folder: Path, *, kills: int
) -> list[int]:
    """Kill the run ``kills`` times; the step that it reached each time."""

    def begin() -> BaseProcess:
        return killed.start(main, task.dump(), entries, files, folder)

    folder.mkdir(parents=True, exist_ok=True)
    return killed.kill_repeatedly(begin, folder / "state", kills=kills, pause=0.05)
