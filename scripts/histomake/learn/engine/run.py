"""Trains an objective and fills a folder with the result: weights, description, history and TensorBoard events."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
from torch import Tensor

from histomake.base.files import sha256_file
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.tensors import write_tensors
from histomake.learn.engine import distributed
from histomake.learn.engine.checkpoint import remove_state
from histomake.learn.engine.history import EVENTS, HISTORY, write_history
from histomake.learn.engine.loop import Trainer
from histomake.learn.engine.objective import Objective, Result
from histomake.learn.engine.runtime import Runtime, catch_interrupts
from histomake.learn.engine.settings import Settings

DETAILS = "training"
"""Folder next to the model for files of optional settings. The whole folder is one declared output."""


def run[B](objective: Objective[B], settings: Settings, *, runtime: Runtime, state: Path, output: Path) -> None:
    """Train ``objective`` in this process, from the checkpoint in the folder ``state`` if it holds one of this run.

    The first process then fills the folder ``output`` and removes the checkpoint; the others wait for it. SIGUSR1
    writes a checkpoint, SIGTERM writes one and raises PreemptedError.
    """
    output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(objective, settings, runtime=runtime, state=state)
    with catch_interrupts() as interrupts:
        result = trainer.run(interrupts)
    if distributed.rank() == 0:
        export(objective, result, state=state, output=output)
    distributed.from_first(None)


def export[B](objective: Objective[B], result: Result, *, state: Path, output: Path) -> None:
    """Write the files of a finished run, model.json last, and remove its checkpoint.

    With one network the names in model.safetensors are its own, with several ``<network>.<name>``.
    """
    result = objective.complete(result)
    details = output / DETAILS
    shutil.rmtree(details, ignore_errors=True)
    details.mkdir()
    objective.write_files(output, details)
    shutil.move(state / EVENTS, details / EVENTS)
    write_history(output / HISTORY, result.history)
    write_tensors(output / WEIGHTS, _named(result))
    card = objective.describe(result)
    msgspec.structs.replace(card, weights_sha256=sha256_file(output / WEIGHTS)).write(output / DESCRIPTION)
    remove_state(state)


def _named(result: Result) -> dict[str, Tensor]:
    alone = len(result.weights) == 1
    return {
        key if alone else f"{network}.{key}": value
        for network, weights in result.weights.items()
        for key, value in weights.items()
    }
