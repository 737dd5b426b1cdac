"""Owns the training of one model: checks of what it can learn from, the run, and the files it leaves."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch.utils.tensorboard import SummaryWriter

from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_file, read_json, write_json
from histomake.base.records.manifest import Manifest
from histomake.config import Task
from histomake.learn.data.drawn_patches import join_parts
from histomake.learn.data.patch_index import PatchIndex, SlideEntry, index_patches, patches_containing
from histomake.learn.data.staging import staged
from histomake.learn.data.stains import COLOURS
from histomake.learn.engine import distributed
from histomake.learn.engine.checkpoint import remove_state
from histomake.learn.engine.runtime import catch_interrupts
from histomake.learn.engine.trainer import Trainer
from histomake.model.transfer import weights_file
from histomake.patch.sampler import choose
from histomake.target.outputs import outputs_of
from histomake.target.targets import is_known

log = logging.getLogger(__name__)

EVENTS = "events"
DETAILS = "training"
"""Folder beside the model for what only some settings make: one declared output, whatever is in it."""
KNOWN_DIGITS = 20
"""Digits of a slide's sha256 that a model keeps: enough to know the slide again."""


def train(
    task: Task,
    *,
    train: Sequence[SlideEntry],
    val: Sequence[SlideEntry],
    class_names: Sequence[str],
    output: Path,
    state: Path,
    seed: int,
    threads: int,
) -> dict[str, Any]:
    """Train one model; fill ``output`` with model.safetensors, model.json and history.csv; return model.json.

    Its folder training/ holds TensorBoard events, with ``train.audit`` drawn.parquet, with ``model.stain`` stains.json.
    ``class_names`` are the annotation classes of the project. ``state`` is a folder that outlives the job: a run that
    finds its own state there goes on from it. Raises PreemptedError after SIGTERM, once the state is saved, and
    HistomakeError for data a model cannot be learned from.
    """
    unknown = sorted({*task.target.classes, *task.train.containing} - set(class_names))
    if unknown and task.target.source != "sheet":
        raise HistomakeError(
            f"no annotation class is called {', '.join(unknown)} (there are: {', '.join(class_names)})"
        )
    entries = [*train, *val]
    with staged(entries) if task.train.stage else nullcontext(entries) as here:
        train, val = here[: len(train)], here[len(train) :]
        if task.train.gpus > 1:
            job = {"task": task.dump(), "train": train, "val": val, "seed": seed}
            job |= {"output": str(output), "state": str(state), "threads": max(1, threads // task.train.gpus)}
            distributed.launch(state, job, processes=task.train.gpus)
        else:
            fit(task, train=train, val=val, output=output, state=state, seed=seed, threads=threads)
    return read_json(output / "model.json")


def fit(
    task: Task,
    *,
    train: Sequence[SlideEntry],
    val: Sequence[SlideEntry],
    output: Path,
    state: Path,
    seed: int,
    threads: int,
) -> None:
    """Train in this process, or as one of several that torchrun started."""
    patches = known_patches(train, task)
    held_out = known_patches(val, task)
    held_out = held_out.take(choose(task.train.validate_patches, len(held_out), seed=seed))
    check_classes(patches, held_out, task)
    trainer = Trainer(task, patches=patches, held_out=held_out, state=state, seed=seed, threads=threads)
    trainer.resume()
    output.mkdir(parents=True, exist_ok=True)
    with catch_interrupts() as interrupts:
        for row in trainer.run(interrupts):
            if trainer.worker == 0:
                _note(row, state / EVENTS)
    if trainer.drawn is not None:
        trainer.drawn.flush()
    distributed.from_first(None)
    if trainer.worker == 0:
        export(trainer, output)
        remove_state(state)


def _note(row: dict[str, Any], folder: Path) -> None:
    """Add a row of the history to the TensorBoard events."""
    with SummaryWriter(str(folder)) as events:
        for name, value in row.items():
            events.add_scalar(name, value, row["step"])


def known_patches(entries: Sequence[SlideEntry], task: Task) -> PatchIndex:
    """The usable patches that have a target."""
    if not entries:
        raise HistomakeError("the split has no slide to train on or none to validate on; see splits/ and quarantine")
    patches = index_patches(entries, kind=task.kind, target=task.target)
    return patches.take(is_known(patches.target))


def check_classes(patches: PatchIndex, held_out: PatchIndex, task: Task) -> None:
    """Stop when a class is missing from the training slides; warn when it is missing from validation."""
    for role, index in (("training", patches), ("validation", held_out)):
        slides = ", ".join(entry.slide_id for entry in index.entries)
        if not len(index):
            raise HistomakeError(f"no {role} patch has a label (slides: {slides}); annotate them or change the split")
        if task.kind == "regression":
            log.info("%s patches: %d", role, len(index))
            continue
        counts = _class_counts(index, task)
        log.info("%s patches: %s", role, counts)
        missing = [name for name, count in counts.items() if not count]
        if missing and role == "training":
            raise HistomakeError(
                f"no training patch has class {', '.join(missing)} (slides: {slides}); stratify the split by it, use "
                "fewer folds, or lower target.min_area"
            )
        if missing:
            log.warning("no validation patch has class %s (slides: %s)", ", ".join(missing), slides)


def _class_counts(patches: PatchIndex, task: Task) -> dict[str, int]:
    """Patches of each class; of pixels, patches that contain it: a rare structure may cover no patch by half."""
    outputs = outputs_of(task.kind, task.target)
    if task.kind == "segmentation":
        return {name: int(patches_containing(patches, name).sum()) for name in task.target.classes}
    if task.kind == "multi_label":
        counts = (np.nan_to_num(patches.target) > 0.5).sum(axis=0)
    else:
        counts = np.bincount(patches.target, minlength=len(outputs))
    return dict(zip(outputs, counts.tolist(), strict=True))


def export(trainer: Trainer, output: Path) -> None:
    """Write the best weights, their description and the history into ``output``; last what the others rest on."""
    best = trainer.best
    if best is None:
        raise HistomakeError("training ended before its first validation")
    details = output / DETAILS
    shutil.rmtree(details, ignore_errors=True)
    details.mkdir()
    if trainer.drawn is not None:
        join_parts(trainer.drawn.folder, details)
    shutil.move(trainer.state / EVENTS, details / EVENTS)
    if trainer.stain is not None:
        shutil.copyfile(trainer.state / COLOURS, details / COLOURS)
    _write_history(output / "history.csv", trainer.history)
    with atomic_file(output / "model.safetensors") as aside:
        save_file({key: value.contiguous() for key, value in best["weights"].items()}, aside)
    write_json(output / "model.json", describe(trainer))


def describe(trainer: Trainer) -> dict[str, Any]:
    """model.json: all that is needed to use the weights, and how they came about."""
    best, task, patches = trainer.best, trainer.task, trainer.patches
    finite = {name: value if np.isfinite(value) else None for name, value in best["metrics"].items()}
    return {
        "architecture": task.model.dump(),
        "kind": task.kind.value,
        "class_names": trainer.outputs,
        "target": task.target.dump(),
        "grid": {"name": task.grid, "size": patches.size, "mpp": patches.mpp},
        "normalisation": trainer.normalisation,
        "stain": trainer.stain.reference if trainer.stain else None,
        "threshold": best["threshold"],
        "slide_thresholds": best["slide_thresholds"],
        "metrics": finite,
        "step": best["step"],
        "seed": trainer.seed,
        "made_with": made_with([*patches.entries, *trainer.held_out.entries], task.model.pretrained),
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
    }


def made_with(entries: Iterable[SlideEntry], pretrained: bool | str) -> list[str]:
    """Which slides' bytes a model has seen, itself or in the model it started from: none of them ever tests it."""
    manifests = (Manifest.read(entry.manifest) for entry in entries)
    seen = {manifest.sha256[:KNOWN_DIGITS] for manifest in manifests if isinstance(manifest, Manifest)}
    earlier = weights_file(pretrained).with_name("model.json") if isinstance(pretrained, str) else None
    if earlier and earlier.is_file():
        seen.update(read_json(earlier).get("made_with", []))
    return sorted(seen)


def _write_history(path: Path, rows: list[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_file(path) as aside, open(aside, "w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
