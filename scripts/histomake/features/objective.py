"""The objective of heads that are trained step by step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from histomake.base.errors import HistomakeError
from histomake.base.records.model_card import ModelCard
from histomake.config import Task
from histomake.features.card import describe_head, finished
from histomake.features.heads import build_head, logits_of, set_scale
from histomake.features.index import FeatureReader
from histomake.learn.data.drawing import draw_weights
from histomake.learn.data.loader import load_batches
from histomake.learn.data.patch_index import PatchIndex
from histomake.learn.data.source import NEW, BatchSource, Room, needed
from histomake.learn.engine.objective import Json, Objective, Optimisation, Result, Turn, Validation
from histomake.learn.engine.optim import build_optimiser, build_schedule
from histomake.learn.engine.runtime import Runtime, default_workers, seed_step
from histomake.learn.inference.validation import LOWER_IS_BETTER
from histomake.learn.kinds import TRAINED, Loss
from histomake.learn.objectives.patches import task_loss
from histomake.model.transfer import parameter_groups
from histomake.patch.sampler import Sampler, choose
from histomake.target.outputs import outputs_of

HEAD = "head"
SCALED_BY = 20_000
"""Training patches from which mean and deviation of the features are taken."""


@dataclass
class FeatureBatch:
    """One batch of n patches: features float32 (n, d), target (n, …), and their index int64 (n,)."""

    features: Tensor
    target: Tensor
    index: np.ndarray


class FeatureBatches(BatchSource[FeatureBatch]):
    """Batch number ``step``, a function of the sampler's seed and the number alone."""

    def __init__(self, reader: FeatureReader, sampler: Sampler, *, batch: int) -> None:
        self.reader, self.sampler, self.batch = reader, sampler, batch

    @property
    def room_bytes(self) -> int:
        """See BatchSource."""
        return needed((self.batch, self.reader.column.dimensions), np.float32)

    def prepare(self, number: int, room: Room = NEW) -> FeatureBatch:
        """See BatchSource."""
        index = self.sampler.draw(number, self.batch)
        features = room.array((len(index), self.reader.column.dimensions), np.float32)
        features[:] = self.reader.read(index)
        target = torch.from_numpy(self.reader.patches.target[index])
        return FeatureBatch(torch.from_numpy(features), target, index)


def optimisation_of(task: Task, network: nn.Module) -> Optimisation:
    """The optimiser of a network that learns from features, and its schedule."""
    train = task.train
    groups = parameter_groups(
        network, learning_rate=train.learning_rate, weight_decay=train.weight_decay, layer_decay=1.0
    )
    optimiser = build_optimiser(train.optimizer, groups, learning_rate=train.learning_rate)
    return Optimisation(optimiser, build_schedule(train.schedule, optimiser, steps=train.steps))


def digests(patches: PatchIndex) -> list[str]:
    """Digests of the patches of an index and their targets, for the identity of what is learned from them."""
    arrays = (patches.slide, patches.x, patches.y, patches.target)
    return [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]


def measure(task: Task, logits: Tensor, patches: PatchIndex, loss: Loss) -> Validation:
    """Measure logits (n, outputs) of validation patches.

    Raises HistomakeError if the figure by which weights are chosen is not defined.
    """
    meter = TRAINED[task.kind].meter(logits.shape[1], loss)
    meter.update(logits, torch.from_numpy(patches.target))
    figures, select = meter.figures(loss), task.train.select
    if np.isnan(figures[select]):
        raise HistomakeError(
            f"train.select: {select} is not defined on the validation slides (only one class, or no event?); choose "
            "another figure, or stratify the split"
        )
    score = -figures[select] if select in LOWER_IS_BETTER else figures[select]
    return Validation(figures, score, meter.thresholds(patches.slide, patches.tissue)._asdict())


class FeatureObjective(Objective[FeatureBatch]):
    """What is learned from features."""

    unit: ClassVar[str] = "patches"
    not_finite = "lower train.learning_rate or set train.clip: 1"

    def __init__(
        self,
        task: Task,
        *,
        reader: FeatureReader,
        validation: FeatureReader,
        runtime: Runtime,
        seed: int,
        threads: int,
    ) -> None:
        self.task, self.reader, self.validation, self.runtime = task, reader, validation, runtime
        self.seed, self.workers = seed, default_workers(task.train.workers, threads)
        self.outputs = outputs_of(task.kind, task.target)
        self.out_of_memory = f"with batches of {task.train.batch} patches: halve train.batch"
        self.weights = draw_weights(reader.patches, task)
        seed_step(seed, worker=0, step=0)
        head = build_head(task, inputs=reader.column.dimensions, outputs=len(self.outputs))
        some = choose(SCALED_BY, len(reader.patches), seed=seed)
        set_scale(head, reader.read(some), np.maximum(self.weights[some], 1e-12))
        self.head = head.to(runtime.device)
        self.networks = {HEAD: self.head}
        self.optimisers = {HEAD: optimisation_of(task, self.head)}
        self.loss = task_loss(task, reader.patches, device=runtime.device)

    def identity(self) -> Json:
        """See Objective: the task, the drawn patches with their targets, and the features."""
        patches = self.reader.patches
        return {
            "task": self.task.fitting(),
            "slides": [[entry.slide_id, entry.reader] for entry in patches.entries],
            "patches": digests(patches),
            "features": self.reader.column.identity,
        }

    def batches(self, numbers: range) -> AbstractContextManager[Iterator[FeatureBatch]]:
        """See Objective."""
        sampler = Sampler.from_weights(self.weights, seed=self.seed)
        source = FeatureBatches(self.reader, sampler, batch=self.task.train.batch)
        return load_batches(source, numbers, workers=self.workers)

    def size(self, batch: FeatureBatch) -> int:
        """See Objective."""
        return len(batch.index)

    def naming(self, batch: FeatureBatch) -> Callable[[], str]:
        """See Objective."""
        return partial(self._name, batch.index)

    def _name(self, index: np.ndarray) -> str:
        return ", ".join(self.reader.patches.describe(int(patch)) for patch in index)

    def turns(self, batch: FeatureBatch, step: int) -> Iterator[Turn]:
        """See Objective."""
        yield Turn(HEAD, self._loss_of(batch))

    def _loss_of(self, batch: FeatureBatch) -> Tensor:
        device = self.runtime.device
        features = batch.features.to(device, non_blocking=True)
        target = batch.target.to(device, non_blocking=True)
        with self.runtime.autocast():
            return self.loss(self.head(features), target)

    def validate(self, step: int) -> Validation:
        """See Objective."""
        patches = self.validation.patches
        logits = logits_of(self.head, self.validation.read(np.arange(len(patches))))
        loss = task_loss(self.task, self.reader.patches, device=torch.device("cpu"))
        return measure(self.task, logits, patches, loss)

    def describe(self, result: Result) -> ModelCard:
        """See Objective."""
        card = describe_head(self.task, self.reader, self.validation.patches, {}, seed=self.seed)
        count = sum(value.numel() for value in self.head.state_dict().values())
        return finished(card, step=result.step, figures=result.figures, thresholds=dict(result.kept), parameters=count)
