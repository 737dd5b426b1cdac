"""What is learned, as the training loop sees it: networks, optimisers, batches, losses and validation.

A step of training is one or more turns. In each turn one optimiser updates its parameters: a classifier has one turn
per step, a generator and its critic two or more, in the order in which `Objective.turns` yields them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from histomake.base.records.record import WeightsCard
from histomake.learn.engine.checkpoint import State

type Json = str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None


@dataclass(frozen=True)
class Turn:
    """One update: ``loss`` is a scalar whose gradients the optimiser called ``optimiser`` applies.

    Only the parameters of that optimiser receive gradients. ``figures`` are further scalars without a graph whose
    means go into the history; the loop never waits for their values.
    """

    optimiser: str
    loss: Tensor
    figures: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Optimisation:
    """An optimiser and the schedule of its learning rate, which advances once per step."""

    optimiser: Optimizer
    schedule: LRScheduler


@dataclass(frozen=True)
class Validation:
    """What a validation found: ``figures`` for the history, ``score`` to compare weights by, larger is better.

    ``kept`` is stored with the weights if they are the best so far, such as thresholds.
    """

    figures: Mapping[str, float]
    score: float
    kept: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """The result of training: the best weights by network, or the last ones where nothing is validated.

    ``step``, ``figures`` and ``kept`` are those of the validation of these weights. ``history`` has a row per record,
    see `histomake.learn.engine.history`.
    """

    step: int
    weights: Mapping[str, Mapping[str, Tensor]]
    figures: Mapping[str, float]
    kept: Mapping[str, Json]
    history: Sequence[Mapping[str, float]]


class Objective[B](ABC):
    """What is learned. ``B`` is the type of a batch, which the loop does not inspect.

    All that a step computes must be a function of the weights, the seed and the step, and of what `state` returns:
    then a resumed run ends with the same weights as an uninterrupted one. Torch's default generators are seeded by
    the loop before each step.
    """

    unit: ClassVar[str] = "samples"
    """What a batch consists of, for the progress in the log."""

    out_of_memory: str
    """Completes "out of memory …": what was attempted and what to change."""

    not_finite: str
    """What to change when the loss is not a number."""

    networks: Mapping[str, nn.Module]
    """Networks by name, on their device, complete from the start: parts that only later steps use exist already."""

    optimisers: Mapping[str, Optimisation]
    """Optimisers by name."""

    @property
    def result(self) -> Sequence[str]:
        """Names of the networks that are saved, which are also those that are averaged. Default: all."""
        return list(self.networks)

    @abstractmethod
    def identity(self) -> Json:
        """All that determines the trained weights apart from the settings of the loop: configuration and data."""

    @abstractmethod
    def batches(self, numbers: range) -> AbstractContextManager[Iterator[B]]:
        """The batches with these numbers, in order; step s takes those from s · accumulate on.

        A batch depends on its number and the process alone. Its shape may change from step to step.
        """

    @abstractmethod
    def size(self, batch: B) -> int:
        """How many units a batch has."""

    @abstractmethod
    def turns(self, batch: B, step: int) -> Iterator[Turn]:
        """Yield the turns of ``step`` over ``batch``, one after another.

        After each yield the optimiser has been applied, so that the next turn computes with new weights. When
        gradients are accumulated, several batches take the first turn before any takes the second; all must take the
        same turns. Never yield inside a ``with`` block of autocast. Do not keep tensors of the turn in local variables
        across a yield that the next turn does not need: they stay in memory until all batches of the step are done.
        """

    @abstractmethod
    def naming(self, batch: B) -> Callable[[], str]:
        """A function that describes the batch, called if its loss is not finite. It holds no large tensor."""

    @abstractmethod
    def describe(self, result: Result) -> WeightsCard:
        """The content of model.json: all that is needed to use the weights, and how they were made.

        The digest of the weights is added when they are written.
        """

    def begin(self, step: int) -> None:
        """Prepare networks and optimisers for ``step``. Phases of training begin here, as a function of ``step`` alone.

        Called before each step, and for the last step that was done before its state is loaded. Default: training mode.
        """
        for network in self.networks.values():
            network.train()

    def validate(self, step: int) -> Validation | None:
        """Measure the networks, which are in eval mode and hold the averaged weights if there are any.

        Called in the first process only, in inference mode. None when nothing is validated: the last weights are kept.
        """
        return None

    def counters(self) -> Mapping[str, float]:
        """Further columns of the history."""
        return {}

    def state(self) -> State:
        """The objective's part of a checkpoint, in addition to networks and optimisers; one state per process.

        Called in every process before a checkpoint and after the last step: files that must match are flushed here.
        """
        return {}

    def resume(self, step: int, state: State | None) -> None:  # noqa: B027
        """Continue from ``step`` with what `state` returned; None at a fresh start."""

    def complete(self, result: Result) -> Result:
        """Complete the result with what can only be computed once the weights are final. Default: as it is.

        Called in the first process only, before anything is written.
        """
        return result

    def write_files(self, output: Path, details: Path) -> None:  # noqa: B027
        """Write further files into the model's folder ``output``, and files of optional settings into ``details``.

        Called in the first process only.
        """
