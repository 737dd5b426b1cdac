"""A training run of a task in a process of its own, to be killed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import killed
from histomake.base.layout import Layout
from histomake.config import Task
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.train import train
from small_cohort import CLASSES, GRID_NAME

SEED = 7


def main(root: Path, task: dict[str, Any], output: Path, readers: Sequence[str] = ()) -> None:
    """Train on the first slides of the cohort in ``root``, validate on the last; ``readers``: of the first."""
    known = (readers, (), ())
    entries = [SlideEntry.at(Layout(root), GRID_NAME, f"s{i}", f"p{i}", {}, known[i]) for i in range(3)]
    train(
        Task.model_validate(task),
        train=entries[:2],
        val=entries[2:],
        class_names=CLASSES,
        output=output,
        state=state_of(output),
        seed=SEED,
        threads=1,
    )


def state_of(output: Path) -> Path:
    """The checkpoint folder of the run that writes ``output``."""
    return output.with_name(f"{output.name}.state")


def start(root: Path, task: Task, output: Path, readers: Sequence[str] = ()) -> BaseProcess:
    """Begin the run."""
    return killed.start(main, root, task.dump(), output, readers)


def kill_repeatedly(
    root: Path, task: Task, output: Path, *, kills: int, pause: float = 0.2, readers: Sequence[str] = ()
) -> int:
    """Kill the run ``kills`` times; the step that it reached."""
    begin = partial(start, root, task, output, readers)
    return killed.kill_repeatedly(begin, state_of(output), kills=kills, pause=pause)[-1]
