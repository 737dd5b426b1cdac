"""Reuse of trained models in a task: their folders, and checks that they match the task.

The imports are light because Snakemake runs these checks before any job starts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import msgspec

from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import RecordError
from histomake.config import Config, Grid, Task

PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")


def model_folder(trained: Path | str, fold: int) -> Path:
    """Return the folder of a fold's model: ``trained`` itself if it is a model, else its subfolder ``fold<k>``."""
    trained = Path(trained)
    return trained if is_one_model(trained) else trained / f"fold{fold}"


def fold_of(path: Path | str) -> int:
    """Return the fold in the name of the folder of a model or prediction file."""
    return int(Path(path).parent.name.removeprefix("fold"))


def is_one_model(trained: Path | str) -> bool:
    """Return whether a folder holds a single model instead of one per fold."""
    return any((Path(trained) / name).exists() for name in (DESCRIPTION, WEIGHTS))


def folds(task: Task) -> range:
    """Return the folds whose models a task uses."""
    return range(1 if task.trained and is_one_model(task.trained) else task.split.folds)


def mismatches(folder: Path, task: Task, grid: Grid, *, named: bool = False) -> list[str]:
    """Return the reasons why ``task`` on ``grid`` cannot use the model in ``folder``; empty if it can.

    If ``named``, the grid must also have the same name as the task's grid, because the model is used in place.
    """
    # Imported here because it loads numpy, and every remote job of a cluster parses this module.
    from histomake.target.outputs import outputs_of

    missing = [name for name in (WEIGHTS, DESCRIPTION) if not (folder / name).is_file()]
    if missing:
        return [f"{folder} lacks {' and '.join(missing)}{_pickle_hint(folder)}"]
    try:
        card = ModelCard.read(folder / DESCRIPTION)
    except RecordError as error:
        return [str(error)]
    found = {
        "kind": card.kind,
        "target.classes": card.class_names,
        f"grids.{task.grid}.size": card.grid.size,
        f"grids.{task.grid}.mpp": card.grid.mpp,
        "features": card.features.encoder if card.features else None,
        "graph": card.bag.graph.name if card.bag and card.bag.graph else None,
    }
    if named:
        found["grid"] = card.grid.name
    wanted: dict[str, object] = {
        "kind": task.kind,
        "target.classes": outputs_of(task.kind, task.target),
        f"grids.{task.grid}.size": grid.size,
        f"grids.{task.grid}.mpp": grid.mpp,
        "features": task.features,
        "graph": task.graph,
        "grid": task.grid,
    }
    return [
        f"{folder} was trained with {key}: {_words(value)}, but the configuration has {_words(wanted[key])}"
        for key, value in found.items()
        if value != wanted[key]
    ]


def _words(value: object) -> str:
    return ", ".join(value) if isinstance(value, list) else json.dumps(value)


def _pickle_hint(folder: Path) -> str:
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLED)
    return f" ({pickled[0]} may be a pickle; pickles are not read, so export it as safetensors)" if pickled else ""


def adapted_card(card: ModelCard, task: Task) -> ModelCard:
    """Return a model's card for use in ``task``, with the name of its grid and its target definition."""
    grid = msgspec.structs.replace(card.grid, name=task.grid)
    return msgspec.structs.replace(card, grid=grid, target=task.target.dump())


def problems(models: Iterable[tuple[str, Path, bool]], config: Config) -> list[str]:
    """Return all reasons why tasks cannot use existing models, given (task, folder, used in place)."""
    found = []
    for name, folder, in_place in models:
        task = config.tasks[name]
        faults = mismatches(folder, task, config.grids[task.grid], named=in_place)
        hint = "" if task.trained else " (the slide sheet has no slide to train on)"
        found += [f"task {name}: {fault}{hint}" for fault in faults]
    return found
