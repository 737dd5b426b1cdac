"""What is learned from bags as wholes: networks with baselines, their validation and their card."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Protocol

import msgspec
import numpy as np
import torch
from torch import Tensor

from histomake.bags.card import bag_card
from histomake.bags.hazards import IntervalHazards, survival_card
from histomake.bags.index import BagIndex
from histomake.bags.network import Baselined
from histomake.base.records.model_card import BagCard, ModelCard, SurvivalCard
from histomake.config import Task
from histomake.features.card import finished
from histomake.features.objective import measure, optimisation_of
from histomake.learn.data.drawing import draw_weights
from histomake.learn.engine.objective import Objective, Result, Validation
from histomake.learn.engine.runtime import Runtime, seed_step
from histomake.learn.objectives.patches import task_loss
from histomake.target.outputs import outputs_of

NETWORK = "network"
HAZARDS = "hazards"
"""The loss that learns hazards by intervals of time, besides risks."""


class BatchOfBags(Protocol):
    """A batch of bags."""

    bags: np.ndarray
    """Number of each bag, int64 (b,)."""

    @property
    def sizes(self) -> list[int]:
        """Patches of each bag."""


class BagLearning[B: BatchOfBags, N: Baselined](Objective[B]):
    """What is learned from bags, whatever a batch has of them.

    ``bags`` are drawn for training, ``held_out`` measured whole at each validation.
    """

    unit: ClassVar[str] = "bags"
    not_finite = "lower train.learning_rate or set train.clip: 1"

    def __init__(
        self, task: Task, *, bags: BagIndex, held_out: BagIndex, runtime: Runtime, seed: int, advice: str
    ) -> None:
        self.task, self.bags, self.held_out = task, bags, held_out
        self.runtime, self.seed = runtime, seed
        self.outputs = outputs_of(task.kind, task.target)
        self.out_of_memory = advice
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

    @abstractmethod
    def build_network(self, hazards: IntervalHazards | None) -> N:
        """The network with its baselines, on the CPU; ``hazards``: what it learns besides risks."""

    @abstractmethod
    def card(self) -> ModelCard:
        """The card before the network is trained, without what concerns bags."""

    def size(self, batch: B) -> int:
        """See Objective."""
        return len(batch.sizes)

    def naming(self, batch: B) -> Callable[[], str]:
        """See Objective."""
        return partial(self._name, batch.bags)

    def _name(self, bags: np.ndarray) -> str:
        return "bags of " + ", ".join(self.bags.names[bag] for bag in bags)

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

    def describe(self, result: Result) -> ModelCard:
        """See Objective."""
        card = self.card()
        card = msgspec.structs.replace(card, head=None, bag=self.bag_card(), survival=self._survival(result))
        count = sum(value.numel() for value in self.network.parameters())
        return finished(card, step=result.step, figures=result.figures, thresholds=dict(result.kept), parameters=count)

    def bag_card(self) -> BagCard:
        """The part of the card that concerns bags."""
        return bag_card(self.task, self.network, penalty=self.penalty)

    def _survival(self, result: Result) -> SurvivalCard | None:
        """What risks of the trained network mean, if the task is about survival."""
        if self.task.target.event is None:
            return None
        risks = self.of_trained(result)[0][:, 0].numpy()
        return survival_card(self.network.hazards, risks, self.bags.first.target)
