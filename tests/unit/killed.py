"""A training run in a process of its own, killed at random moments."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from histomake.learn.engine.checkpoint import STATE_FILE, load_state

LAZY = ("torch._dynamo",)
"""What torch imports with the first step of an optimiser, which takes seconds."""


def start(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Call ``function`` in a process that can be killed.

    It is forked from a server that has imported the function's module, so it starts at once.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__, *LAZY])
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def saved_step(folder: Path) -> int | None:
    """The step of the state in ``folder``, or None. A run may replace the state at any moment."""
    if not (folder / STATE_FILE).exists():
        return None
    with tempfile.TemporaryDirectory(dir=folder) as aside:
        # Tensors are read by opening the file a second time, which may be another file by then.
        with contextlib.suppress(FileNotFoundError):
            os.link(folder / STATE_FILE, Path(aside) / STATE_FILE)
        state = load_state(Path(aside))
    return None if state is None else state["step"]


def wait_for_step(process: BaseProcess, folder: Path, step: int) -> int:
    """Wait until the run has saved a state later than ``step``; returns that state's step."""
    while process.is_alive():
        saved = saved_step(folder)
        if saved is not None and saved > step:
            return saved
        time.sleep(0.02)
    raise AssertionError(f"the run ended with {process.exitcode} before a state after step {step} was seen")


def kill_repeatedly(begin: Callable[[], BaseProcess], state: Path, *, kills: int, pause: float = 0.2) -> list[int]:
    """Begin the run ``kills`` times; SIGKILL it up to ``pause`` seconds after it saved a later state.

    ``state`` is its checkpoint folder. Returns the step of the checkpoint after each kill.
    """
    chance, steps = random.Random(1), [0]
    for _ in range(kills):
        process = begin()
        wait_for_step(process, state, steps[-1])
        time.sleep(chance.uniform(0, pause))
        process.kill()
        process.join()
        steps.append(saved_step(state))
    return steps[1:]
