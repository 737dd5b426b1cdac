"""Training of a head on features: from the files of a cohort to the files of a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import structs

from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import Quarantined
from histomake.base.tensors import write_tensors
from histomake.config import Task
from histomake.features.card import describe_head, finished
from histomake.features.heads import CHOOSERS, ChosenHead, HeadSamples
from histomake.features.index import FeatureReader
from histomake.features.objective import FeatureObjective
from histomake.features.store import read_features
from histomake.learn.data.drawing import draw_weights
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.engine.history import HISTORY, write_history
from histomake.learn.engine.run import run
from histomake.learn.engine.runtime import choose_runtime
from histomake.learn.kinds import TRAINED
from histomake.learn.objectives.losses import build_loss
from histomake.learn.train import (
    check_classes,
    known_patches,
    name_left_out,
    require_slides,
    settings_of,
    training_patches,
)
from histomake.patch.sampler import Sampler, choose
from histomake.target.outputs import outputs_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


def train_head(
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
    """Train the head of a task; fill ``output`` with model.safetensors, model.json, history.csv and training/.

    Args:
        task: The task, with features.
        train: Slides to learn from.
        val: Slides to choose with.
        files: File of features of each slide, by id.
        column: Column of the features.
        output: Folder of the model.
        state: Folder of the checkpoints of a head that is trained step by step.
        seed: Seed of all draws.
        threads: Number of CPU threads.

    Raises HistomakeError for data from which no head can be learned.
    """
    left_out = damaged_slides([*train, *val], files)
    lost = {entry.slide_id for entry in left_out}
    train, val = ([entry for entry in entries if entry.slide_id not in lost] for entries in (train, val))
    require_slides(train, val)
    patches, held_out = training_patches(train, task), known_patches(val, task)
    held_out = held_out.take(choose(task.train.validate_patches, len(held_out), seed=seed))
    check_classes(patches, held_out, task)
    reader, validation = FeatureReader(patches, files, column), FeatureReader(held_out, files, column)
    reader.require_same_weights(validation)
    runtime = choose_runtime(task.train.precision, threads=threads)
    if task.head not in CHOOSERS:
        objective = FeatureObjective(
            task, reader=reader, validation=validation, runtime=runtime, seed=seed, threads=threads
        )
        run(objective, settings_of(task, seed=seed), runtime=runtime, state=state, output=output)
        return name_left_out(output, left_out)
    outputs = outputs_of(task.kind, task.target)
    samples = _drawn(task, reader, seed=seed)
    held = _samples(validation, np.arange(len(held_out)), np.ones(len(held_out)))
    loss = build_loss(TRAINED[task.kind].loss)
    choice = CHOOSERS[task.head](task, samples, held, outputs=len(outputs), loss=loss)
    card = describe_head(task, reader, held_out, choice.chosen, seed=seed)
    return _write(output, choice, structs.replace(card, left_out=left_out))


def damaged_slides(entries: Sequence[SlideEntry], files: Mapping[str, Path]) -> list[Quarantined]:
    """The quarantine entries of slides whose damage was met while their patches were encoded."""
    found = [read_features(files[entry.slide_id]).met_damage for entry in entries]
    for lost in filter(None, found):
        log.warning("slide %s is left out of the training: %s", lost.slide_id, lost.detail)
    return [lost for lost in found if lost]


def _drawn(task: Task, reader: FeatureReader, *, seed: int) -> HeadSamples:
    """All training patches with their probability to be drawn, or as many draws as the head may have."""
    weight = draw_weights(reader.patches, task)
    if len(weight) <= task.probe.patches:
        index = np.flatnonzero(weight > 0)
        return _samples(reader, index, weight[index])
    index = Sampler.from_weights(weight, seed=seed).draw(0, task.probe.patches)
    log.info("%d of %d training patches are drawn (probe.patches)", len(index), len(weight))
    return _samples(reader, np.sort(index), np.ones(len(index)))


def _samples(reader: FeatureReader, index: NDArray[np.int64], weight: NDArray[np.float64]) -> HeadSamples:
    patches = reader.patches
    return HeadSamples(
        features=reader.read(index),
        target=patches.target[index],
        weight=weight,
        slide=patches.slide[index],
        tissue=patches.tissue[index],
    )


def _write(output: Path, choice: ChosenHead, card: ModelCard) -> ModelCard:
    """Write the files of a head, model.json last."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "training").mkdir(exist_ok=True)
    write_history(output / HISTORY, choice.history)
    tensors = choice.head.state_dict()
    write_tensors(output / WEIGHTS, tensors)
    count = sum(value.numel() for value in tensors.values())
    card = finished(card, step=choice.step, figures=choice.figures, thresholds=choice.thresholds, parameters=count)
    card.write(output / DESCRIPTION)
    return card
