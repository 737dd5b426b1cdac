"""Training of a task on bags: from the files of a cohort to the files of a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from histomake.bags.index import BagIndex, index_bags, without_unknown
from histomake.bags.objective import BagObjective
from histomake.bags.sampling import BagPatches, curve_positions
from histomake.base.errors import HistomakeError
from histomake.base.records.model_card import ModelCard
from histomake.config import Task
from histomake.features.training import damaged_slides
from histomake.learn.data.patch_index import SlideEntry, index_patches, patches_containing
from histomake.learn.engine.run import run
from histomake.learn.engine.runtime import choose_runtime
from histomake.learn.train import check_classes, name_left_out, require_slides, settings_of
from histomake.patch.sampler import choose
from histomake.target.survival import ordered_pairs

log = logging.getLogger(__name__)

CLUSTERED_BY = 20_000
"""Training patches from which the clusters of sampler cluster are found."""


def train_bags(
    task: Task,
    *,
    train: Sequence[SlideEntry],
    val: Sequence[SlideEntry],
    files: Mapping[str, Path],
    column: str,
    output: Path,
    state: Path,
    seed: int,
    threads: int,
) -> ModelCard:
    """Train the model of a task on bags; fill ``output`` with model.safetensors, model.json, history.csv and training/.

    Args:
        task: The task, of level slide or patient, with features.
        train: Slides to learn from.
        val: Slides to choose with.
        files: File of features of each slide, by id.
        column: Column of the features.
        output: Folder of the model.
        state: Folder of the checkpoints.
        seed: Seed of all draws.
        threads: Number of CPU threads.

    A slide that was damaged when its patches were encoded is left out, and named in the card. Raises HistomakeError
    for data from which no model can be learned.
    """
    left_out = damaged_slides([*train, *val], files)
    lost = {entry.slide_id for entry in left_out}
    train, val = ([entry for entry in entries if entry.slide_id not in lost] for entries in (train, val))
    require_slides(train, val)
    bags, held_out = (_bags(task, entries, files, column) for entries in (train, val))
    bags.stored.require_same_weights(held_out.stored)
    learn(BagObjective, task, bags=bags, held_out=held_out, output=output, state=state, seed=seed, threads=threads)
    return name_left_out(output, left_out)


def learn(
    learned: type[BagObjective],
    task: Task,
    *,
    bags: BagIndex,
    held_out: BagIndex,
    output: Path,
    state: Path,
    seed: int,
    threads: int,
) -> None:
    """Train on bags of known target and fill ``output``; the arguments are those of `train_bags`."""
    require_learnable(task, bags, held_out)
    runtime = choose_runtime(task.train.precision, threads=threads)
    objective = learned(
        task,
        bags=bags,
        held_out=held_out,
        known=known_of(task, bags, seed=seed),
        runtime=runtime,
        state=state,
        seed=seed,
        threads=threads,
    )
    run(objective, settings_of(task, seed=seed), runtime=runtime, state=state, output=output)


def _bags(task: Task, entries: Sequence[SlideEntry], files: Mapping[str, Path], column: str) -> BagIndex:
    patches = index_patches(entries, kind=task.kind, target=task.target)
    return known_bags(task, index_bags(patches, files, column, level=task.level, min_tissue=task.bag.min_tissue))


def known_bags(task: Task, bags: BagIndex) -> BagIndex:
    """The bags of known target. Raises HistomakeError if there is none."""
    bags = without_unknown(bags)
    if not len(bags):
        raise HistomakeError(f"no {task.level} has a value in column {' and '.join(task.target.sheet_columns)}")
    sizes = [len(members) for members in bags.members]
    log.info("%d bags of %d to %d patches", len(bags), min(sizes), max(sizes))
    return bags


def require_learnable(task: Task, bags: BagIndex, held_out: BagIndex) -> None:
    """Raise HistomakeError if a class has no training bag, or no two bags of a role can be compared."""
    check_classes(bags.first, held_out.first, task)
    for role, index in (("training", bags), ("validation", held_out)):
        _require_events(task, index, role)


def _require_events(task: Task, bags: BagIndex, role: str) -> None:
    """Raise HistomakeError for survival of which no two patients can be compared: nothing can be learned or chosen."""
    if task.target.event is None:
        return
    time, event = bags.first.target.T
    log.info("%s %ss: %d, of which %d have the event", role, task.level, len(time), int(event.sum()))
    if not ordered_pairs(time, time, event)[0][0]:
        raise HistomakeError(
            f"no {role} {task.level} has the event ({task.target.event} is 1) while another is still observed, so that "
            f"no risk can be compared ({', '.join(bags.names)}); add patients with events, use fewer folds, or assign "
            "roles in the split column of the sheet"
        )


def known_of(task: Task, bags: BagIndex, *, seed: int) -> list[BagPatches]:
    """What the sampler of the task must know of the patches of each bag."""
    patches = bags.patches
    containing = {name: patches_containing(patches, name) for name in task.bag.containing}
    for name, contains in containing.items():
        if not contains.any():
            raise HistomakeError(f"bag.containing: no training patch contains {name}")
    group = _clusters(task, bags, seed=seed) if task.bag.sampler == "cluster" else None
    return [
        BagPatches(
            curve_positions(patches.slide[mine], patches.x[mine], patches.y[mine]),
            None if group is None else group[mine],
            {name: contains[mine] for name, contains in containing.items()},
        )
        for mine in bags.members
    ]


def _clusters(task: Task, bags: BagIndex, *, seed: int) -> np.ndarray:
    """Cluster int (n,) of each patch: k-means of unit vectors, found from some patches of all bags."""
    some = bags.reader.read(choose(CLUSTERED_BY, len(bags.patches), seed=seed))
    count = min(task.bag.clusters, len(some))
    model = MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=4096).fit(_unit(some))
    starts = range(0, len(bags.patches), CLUSTERED_BY)
    parts = (np.arange(start, min(start + CLUSTERED_BY, len(bags.patches))) for start in starts)
    return np.concatenate([model.predict(_unit(bags.reader.read(part))) for part in parts])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
