"""The objective of tasks on bags: draws bags and their patches, and trains and validates a `BagNetwork`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from histomake.bags.baselines import fit_baselines
from histomake.bags.batch import Bags
from histomake.bags.card import bag_card
from histomake.bags.hazards import IntervalHazards, survival_card
from histomake.bags.index import BagIndex
from histomake.bags.network import BagNetwork
from histomake.bags.sampling import BagPatches, BagSampler
from histomake.base.records.model_card import ModelCard, SurvivalCard
from histomake.config import Task
from histomake.features.card import describe_head, finished
from histomake.features.heads import set_scale
from histomake.features.objective import SCALED_BY, digests, measure, optimisation_of
from histomake.learn.data.drawing import draw_weights
from histomake.learn.data.drawn_patches import DrawnPatches, join_parts
from histomake.learn.data.loader import load_batches
from histomake.learn.data.source import NEW, BatchSource, Room, needed
from histomake.learn.engine.checkpoint import State
from histomake.learn.engine.objective import Json, Objective, Result, Turn, Validation
from histomake.learn.engine.runtime import Runtime, default_workers, seed_step
from histomake.learn.objectives.patches import task_loss
from histomake.patch.augment import Parameters
from histomake.patch.sampler import Sampler, choose
from histomake.target.outputs import outputs_of

NETWORK = "network"
HAZARDS = "hazards"
"""The loss that learns hazards by intervals of time, besides risks."""


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


class BagObjective(Objective[BagBatch]):
    """What is learned from bags.

    ``bags`` are drawn for training, ``held_out`` measured whole at each validation. ``known``: what sampling knows of
    each training bag. ``state``: folder of the checkpoints, where drawn patches are kept as well.
    """

    unit: ClassVar[str] = "bags"
    not_finite = "lower train.learning_rate or set train.clip: 1"

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
        self.task, self.bags, self.held_out, self.known = task, bags, held_out, known
        self.runtime, self.seed, self.workers = runtime, seed, default_workers(task.train.workers, threads)
        self.outputs = outputs_of(task.kind, task.target)
        self.out_of_memory = f"with {task.train.batch} bags of {task.bag.size} patches: halve train.batch or bag.size"
        self.weights = draw_weights(bags.first, task)
        seed_step(seed, worker=0, step=0)
        hazards = IntervalHazards.of(bags.first.target, task.train.intervals) if task.train.loss == HAZARDS else None
        self.loss_on_cpu = hazards or task_loss(task, bags.first, device=torch.device("cpu"))
        self.penalty: float | None = None
        self._of_trained: tuple[Tensor, Tensor] | None = None
        self.network = self.build_network(hazards).to(runtime.device)
        self.networks = {NETWORK: self.network}
        self.optimisers = {NETWORK: optimisation_of(task, self.network)}
        self.loss = hazards or task_loss(task, bags.first, device=runtime.device)
        self.drawn = DrawnPatches(state / "drawn", bags.patches, worker=0) if task.train.audit else None

    def build_network(self, hazards: IntervalHazards | None) -> BagNetwork:
        """The network with its baselines, on the CPU; ``hazards``: what it learns besides risks."""
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

    def size(self, batch: BagBatch) -> int:
        """See Objective."""
        return len(batch.sizes)

    def naming(self, batch: BagBatch) -> Callable[[], str]:
        """See Objective."""
        return partial(self._name, batch.bags)

    def _name(self, bags: np.ndarray) -> str:
        return "bags of " + ", ".join(self.bags.names[bag] for bag in bags)

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

    def validate(self, step: int) -> Validation:
        """See Objective."""
        return measure(self.task, self.predicted(self.held_out)[0], self.held_out.first, self.loss_on_cpu)

    def predicted(self, bags: BagIndex) -> tuple[Tensor, Tensor]:
        """Logits (bags, outputs) of whole bags, and means (bags, d) of their scaled features, on the CPU."""
        logits, means = [], []
        for bag in range(len(bags)):
            # Nothing that has a row per patch is kept.
            pooled, mean = self.network.predict_bag(bags, bag, self.runtime.device)
            logits.append(pooled.logits.cpu())
            means.append(mean.cpu())
        return torch.cat(logits), torch.cat(means)

    def of_trained(self, result: Result) -> tuple[Tensor, Tensor]:
        """`predicted` of the training bags with the weights of the result, which the network then has."""
        if self._of_trained is None:
            self.network.load_state_dict(dict(result.weights[NETWORK]))
            self.network.eval()
            self._of_trained = self.predicted(self.bags)
        return self._of_trained

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

    def describe(self, result: Result) -> ModelCard:
        """See Objective."""
        card = self.card()
        bag = bag_card(self.task, self.network, penalty=self.penalty)
        card = msgspec.structs.replace(card, head=None, bag=bag, survival=self._survival(result))
        count = sum(value.numel() for value in self.network.parameters())
        return finished(card, step=result.step, figures=result.figures, thresholds=dict(result.kept), parameters=count)

    def card(self) -> ModelCard:
        """The card before the network is trained, without what concerns bags."""
        return describe_head(self.task, self.bags.stored, self.held_out.patches, {}, seed=self.seed)

    def _survival(self, result: Result) -> SurvivalCard | None:
        """What risks of the trained network mean, if the task is about survival."""
        if self.task.target.event is None:
            return None
        risks = self.of_trained(result)[0][:, 0].numpy()
        return survival_card(self.network.hazards, risks, self.bags.first.target)
