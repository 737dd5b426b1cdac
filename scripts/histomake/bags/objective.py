"""The objective of tasks on bags: draws bags and their patches, and trains and validates a `BagNetwork`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from histomake.bags.baselines import fit_baselines
from histomake.bags.batch import Bags
from histomake.bags.hazards import IntervalHazards
from histomake.bags.index import BagIndex
from histomake.bags.learning import NETWORK, BagLearning
from histomake.bags.network import BagNetwork
from histomake.bags.sampling import BagPatches, BagSampler
from histomake.base.records.model_card import ModelCard
from histomake.config import Task
from histomake.features.card import describe_head
from histomake.features.heads import set_scale
from histomake.features.objective import SCALED_BY, digests
from histomake.learn.data.drawn_patches import DrawnPatches, join_parts
from histomake.learn.data.loader import load_batches
from histomake.learn.data.source import NEW, BatchSource, Room, needed
from histomake.learn.engine.checkpoint import State
from histomake.learn.engine.objective import Json, Turn
from histomake.learn.engine.runtime import Runtime, default_workers
from histomake.patch.augment import Parameters
from histomake.patch.sampler import Sampler, choose


@dataclass
class BagBatch:
    """b bags with n drawn patches in all.

    step: number of the batch. features, sizes and places: see Bags; of pixels, features are patches uint8 (n, h, w, c),
    and parameters those of their augmentation. target: (b, …). bags: number of each bag. index, x, y: the patches.
    """

    step: int
    features: Tensor
    sizes: list[int]
    places: Tensor
    target: Tensor
    bags: np.ndarray
    index: np.ndarray
    x: np.ndarray
    y: np.ndarray
    parameters: Parameters | None = None


class BagBatches(BatchSource[BagBatch]):
    """Batch number ``step``, a function of the seeds of the samplers and the number alone."""

    def __init__(
        self, bags: BagIndex, known: list[BagPatches], sampler: Sampler, draws: BagSampler, *, batch: int
    ) -> None:
        self.bags, self.known, self.sampler, self.draws, self.batch = bags, known, sampler, draws, batch

    @property
    def room_bytes(self) -> int:
        """See BatchSource."""
        return needed((self.batch * self.draws.size, self.bags.stored.column.dimensions), np.float32)

    def read(self, number: int, index: np.ndarray, room: Room) -> tuple[Tensor, Parameters | None]:
        """The features of the patches ``index`` of batch ``number``, and parameters of augmentation."""
        features = room.array((len(index), self.bags.stored.column.dimensions), np.float32)
        features[:] = self.bags.reader.read(index)
        return torch.from_numpy(features), None

    def prepare(self, number: int, room: Room = NEW) -> BagBatch:
        """See BatchSource."""
        chosen = self.sampler.draw(number, self.batch)
        parts = [
            self.bags.members[bag][self.draws.draw(self.known[bag], step=number, slot=slot)]
            for slot, bag in enumerate(chosen)
        ]
        index, patches = np.concatenate(parts), self.bags.patches
        features, parameters = self.read(number, index, room)
        return BagBatch(
            step=number,
            features=features,
            parameters=parameters,
            sizes=[len(part) for part in parts],
            places=torch.from_numpy(self.bags.places[index]),
            target=torch.from_numpy(self.bags.first.target[chosen]),
            bags=chosen,
            index=index,
            x=patches.x[index],
            y=patches.y[index],
        )


class BagObjective(BagLearning[BagBatch, BagNetwork]):
    """What is learned from patches that are drawn from bags.

    ``known``: what sampling knows of each training bag. ``state``: folder of the checkpoints, where drawn patches are
    kept as well.
    """

    def __init__(
        self,
        task: Task,
        *,
        bags: BagIndex,
        held_out: BagIndex,
        known: list[BagPatches],
        runtime: Runtime,
        state: Path,
        seed: int,
        threads: int,
    ) -> None:
        self.known, self.workers = known, default_workers(task.train.workers, threads)
        advice = f"with {task.train.batch} bags of {task.bag.size} patches: halve train.batch or bag.size"
        super().__init__(task, bags=bags, held_out=held_out, runtime=runtime, seed=seed, advice=advice)
        self.drawn = DrawnPatches(state / "drawn", bags.patches, worker=0) if task.train.audit else None

    def build_network(self, hazards: IntervalHazards | None) -> BagNetwork:
        """See BagLearning."""
        task, bags = self.task, self.bags
        inputs, outputs = bags.stored.column.dimensions, len(self.outputs)
        network = BagNetwork(task.pooling, inputs=inputs, outputs=outputs, hazards=hazards)
        some = choose(SCALED_BY, len(bags.patches), seed=self.seed)
        set_scale(network, bags.reader.read(some), np.ones(len(some)))
        self.penalty = fit_baselines(network, task, bags, self.held_out, self.loss_on_cpu)
        return network

    def identity(self) -> Json:
        """See Objective: the task, the bags with their patches and targets, and the features."""
        return {
            "task": self.task.fitting(),
            "bags": list(self.bags.names),
            "patches": digests(self.bags.patches),
            "features": self.bags.stored.column.identity,
        }

    def batches(self, numbers: range) -> AbstractContextManager[Iterator[BagBatch]]:
        """See Objective."""
        return load_batches(self.source(), numbers, workers=self.workers)

    def source(self) -> BagBatches:
        """The batches, drawn as the task says."""
        return BagBatches(self.bags, self.known, *self.samplers(), batch=self.task.train.batch)

    def samplers(self) -> tuple[Sampler, BagSampler]:
        """What draws bags, and the patches of a bag."""
        bag = self.task.bag
        draws = BagSampler(self.seed, bag.sampler, bag.size, bag.containing)
        return Sampler.from_weights(self.weights, seed=self.seed), draws

    def turns(self, batch: BagBatch, step: int) -> Iterator[Turn]:
        """See Objective."""
        if self.drawn is not None:
            self.drawn.add(batch)
        yield Turn(NETWORK, self._loss_of(batch))

    def _loss_of(self, batch: BagBatch) -> Tensor:
        device = self.runtime.device
        given = Bags(batch.features.to(device, non_blocking=True), batch.sizes, batch.places.to(device))
        target = batch.target.to(device)
        with self.runtime.autocast():
            pooled = self.network(given) if batch.parameters is None else self.network(given, batch.parameters)
            loss = self.loss(pooled.logits, target)
            of_patches = self.network.pooling.patch_loss(pooled, given.sizes, target)
        share = self.task.pooling.patch_loss
        return loss if of_patches is None else (1 - share) * loss + share * of_patches

    def state(self) -> State:
        """See Objective."""
        if self.drawn is not None:
            self.drawn.flush()
        return {}

    def resume(self, step: int, state: State | None) -> None:
        """See Objective."""
        if self.drawn is not None:
            self.drawn.forget_from(step * self.task.train.accumulate)

    def write_files(self, output: Path, details: Path) -> None:
        """See Objective."""
        if self.drawn is not None:
            join_parts(self.drawn.folder, details)

    def card(self) -> ModelCard:
        """See BagLearning."""
        return describe_head(self.task, self.bags.stored, self.held_out.patches, {}, seed=self.seed)
