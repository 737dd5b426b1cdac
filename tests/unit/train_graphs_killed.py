"""A training run on graphs in a process of its own, killed in each of its trainings."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import killed
from histomake.base.layout import DESCRIPTION
from histomake.base.records.graph import EDGE_ABLATIONS
from histomake.config import Task
from histomake.graphs.training import train_graphs
from histomake.learn.data.patch_index import SlideEntry

TRAININGS = (*EDGE_ABLATIONS, ".")
"""Folders of the checkpoints of the trainings, in their order."""


def main(task: dict[str, Any], entries: Sequence[SlideEntry], files: dict[str, Path], folder: Path) -> None:
    """Train on the first four slides, validate on the others."""
    train_graphs(
        Task.model_validate(task),
        train=entries[:4],
        val=entries[4:],
        files=files,
        output=folder / "model",
        state=folder / "state",
        seed=1,
        threads=1,
    )


def reached(state: Path) -> tuple[int, int]:
    """The training that a run is in, and the step of its checkpoint; 0 before there is one.

    A training that ends removes its checkpoint, so what it leaves counts as the beginning of the next one.
    """
    found = [(0, 0)]
    for number, name in enumerate(TRAININGS):
        step = killed.saved_step(state / name) if (state / name).is_dir() else None
        found += [] if step is None else [(number, step)]
        found += [(number + 1, 0)] if (state / name / "model" / DESCRIPTION).is_file() else []
    return max(found)


def kill_repeatedly(
    task: Task, entries: Sequence[SlideEntry], files: dict[str, Path], folder: Path, *, kills: int
) -> list[tuple[int, int]]:
    """Begin the run ``kills`` times, and kill it soon after it got further; how far it had got each time."""
    folder.mkdir(parents=True, exist_ok=True)
    chance, found = random.Random(1), [(0, 0)]
    for _ in range(kills):
        process = killed.start(main, task.dump(), entries, files, folder)
        while reached(folder / "state") <= found[-1]:
            assert process.is_alive(), f"the run ended with {process.exitcode}"
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.4))
        process.kill()
        process.join()
        found.append(reached(folder / "state"))
    return found[1:]
