"""Owns a training run in a process of its own, and killing it at random moments."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from histomake.base.layout import Layout
from histomake.config import Task
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.engine.checkpoint import load_state
from histomake.learn.train import train
from small_cohort import CLASSES, GRID_NAME

SEED = 7


def main(root: Path, task: dict[str, Any], output: Path) -> None:
    """Train on the first slides of the cohort in ``root``, validate on the last."""
    entries = [SlideEntry.at(Layout(root), GRID_NAME, f"s{i}", f"p{i}", {}) for i in range(3)]
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


def start(root: Path, task: Task, output: Path) -> BaseProcess:
    """Train in a process that can be killed; forked from a server that has imported everything, it starts at once."""
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=main, args=(root, task.dump(), output))
    process.start()
    return process


def wait_for_step(process: BaseProcess, folder: Path, step: int) -> int:
    """Wait until the run has saved a state later than ``step``; returns that state's step."""
    while process.is_alive():
        state = load_state(folder)
        if state is not None and state["step"] > step:
            return state["step"]
        time.sleep(0.02)
    raise AssertionError(f"the run ended with {process.exitcode} before a state after step {step} was seen")


def kill_repeatedly(root: Path, task: Task, output: Path, *, kills: int, pause: float = 0.2) -> int:
    """Start the run ``kills`` times; SIGKILL it up to ``pause`` seconds after it got on; returns the step reached."""
    chance, step = random.Random(1), 0
    for _ in range(kills):
        process = start(root, task, output)
        wait_for_step(process, state_of(output), step)
        time.sleep(chance.uniform(0, pause))
        process.kill()
        process.join()
        step = load_state(state_of(output))["step"]
    return step
