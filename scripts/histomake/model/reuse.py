"""Owns models that a task uses without training one: where they lie, and whether they fit the task.

Light on purpose: Snakemake asks before any job starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from histomake.base.files import read_json
from histomake.config import Config, Grid, Task
from histomake.target.outputs import outputs_of

DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"
PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")


def model_folder(trained: Path | str, fold: int) -> Path:
    """The folder of a fold's model: ``trained`` itself where it holds one, else its ``fold<k>``."""
    trained = Path(trained)
    return trained if is_one_model(trained) else trained / f"fold{fold}"


def fold_of(path: Path | str) -> int:
    """The fold that the folder of a model's or a prediction's file is named after."""
    return int(Path(path).parent.name.removeprefix("fold"))


def is_one_model(trained: Path | str) -> bool:
    """Whether a folder holds one model and not one per fold."""
    return any((Path(trained) / name).exists() for name in (DESCRIPTION, WEIGHTS))


def folds(task: Task) -> range:
    """The folds whose models a task takes over."""
    return range(1 if task.trained and is_one_model(task.trained) else task.split.folds)


def misfits(folder: Path, task: Task, grid: Grid, *, named: bool = False) -> list[str]:
    """What keeps ``task`` on ``grid`` from using the model in ``folder``, in words; empty when it fits.

    ``named``: its grid must also be called as the task's, because the model is used where it lies.
    """
    missing = [name for name in (WEIGHTS, DESCRIPTION) if not (folder / name).is_file()]
    if missing:
        return [f"{folder} has no {' and no '.join(missing)}{_pickle_hint(folder)}"]
    try:
        described = read_json(folder / DESCRIPTION)
        found = {
            "kind": described["kind"],
            "target.classes": described["class_names"],
            "target.multi_label": described["target"]["multi_label"],
            f"grids.{task.grid}.size": described["grid"]["size"],
            f"grids.{task.grid}.mpp": described["grid"]["mpp"],
        }
        if named:
            found["grid"] = described["grid"]["name"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        return [f"{folder / DESCRIPTION} does not describe a model of this workflow ({error!r})"]
    wanted: dict[str, Any] = {
        "kind": task.kind,
        "target.classes": outputs_of(task.kind, task.target),
        "target.multi_label": task.target.multi_label,
        f"grids.{task.grid}.size": grid.size,
        f"grids.{task.grid}.mpp": grid.mpp,
        "grid": task.grid,
    }
    return [
        f"{folder} was trained with {key}: {_words(value)}; the configuration says {_words(wanted[key])}"
        for key, value in found.items()
        if value != wanted[key]
    ]


def _words(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else json.dumps(value)


def _pickle_hint(folder: Path) -> str:
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLED)
    return f" ({pickled[0]} may be a pickle, which is never read: export it as safetensors)" if pickled else ""


def taken_over(described: dict[str, Any], task: Task) -> dict[str, Any]:
    """The description of a model once it is the task's own, which names its grid and says what the truth is."""
    return described | {"grid": described["grid"] | {"name": task.grid}, "target": task.target.dump()}


def problems(models: Iterable[tuple[str, Path, bool]], config: Config) -> list[str]:
    """Everything that keeps tasks from using models that are there: of (task, folder, used where it lies)."""
    found = []
    for name, folder, in_place in models:
        task = config.tasks[name]
        faults = misfits(folder, task, config.grids[task.grid], named=in_place)
        hint = "" if task.trained else " (the sheet gives no slide to train on)"
        found += [f"task {name}: {fault}{hint}" for fault in faults]
    return found
