"""Tiny objectives for tests of the training loop, without slides or patches."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from histomake.base.records.record import WeightsCard
from histomake.base.rng import counter_rng
from histomake.learn.engine import distributed
from histomake.learn.engine.checkpoint import State
from histomake.learn.engine.objective import Json, Objective, Optimisation, Result, Turn, Validation
from histomake.learn.engine.optim import build_schedule
from histomake.learn.engine.run import run
from histomake.learn.engine.runtime import Interrupts, choose_runtime
from histomake.learn.engine.settings import Settings
from torch import Tensor, nn

CPU = choose_runtime("fp32", threads=1)


def constant(optimiser: torch.optim.Optimizer) -> Optimisation:
    return Optimisation(optimiser, build_schedule("constant", optimiser, steps=1))


class ToyCard(WeightsCard, frozen=True, kw_only=True):
    """The model card of a toy."""

    step: int
    kept: dict[str, Any]


class Toy(Objective[Tensor]):
    """Base class of the toys: batches made of numbers."""

    out_of_memory = "with toys"
    not_finite = "play less"

    def identity(self) -> Json:
        return type(self).__name__

    @contextmanager
    def batches(self, numbers: range) -> Iterator[Iterator[Tensor]]:
        yield map(self.batch, numbers)

    @abstractmethod
    def batch(self, number: int) -> Tensor:
        """The batch with this number."""

    def size(self, batch: Tensor) -> int:
        return len(batch)

    def naming(self, batch: Tensor) -> Callable[[], str]:
        return lambda: f"{len(batch)} toys"

    def describe(self, result: Result) -> ToyCard:
        return ToyCard(step=result.step, kept=dict(result.kept))


class Line(Toy):
    """Linear regression of a batch's sum; ``shares``: a sample of 8 comes in so many equal batches."""

    def __init__(self, *, shares: int = 1, optimiser: str = "adam") -> None:
        torch.manual_seed(0)
        self.shares = shares
        self.networks = {"line": nn.Linear(3, 1)}
        parameters = self.networks["line"].parameters()
        choice = torch.optim.Adam(parameters, 0.05) if optimiser == "adam" else torch.optim.SGD(parameters, 1.0)
        self.optimisers = {"line": constant(choice)}

    def batch(self, number: int) -> Tensor:
        """In several processes each takes its share of the sample."""
        processes = distributed.size()
        sample, share = (number, distributed.rank()) if processes > 1 else divmod(number, self.shares)
        values = torch.from_numpy(counter_rng(1, step=sample).normal(size=(8, 3))).float()
        return values.chunk(max(processes, self.shares))[share]

    def turns(self, batch: Tensor, step: int) -> Iterator[Turn]:
        loss = (self.networks["line"](batch)[:, 0] - batch.sum(1)).square().mean()
        yield Turn("line", loss, {"error": loss.detach().sqrt()})


class Counter(Toy):
    """One weight that grows by 1 in each step; validations get the given scores."""

    def __init__(self, scores: Sequence[float] = ()) -> None:
        network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(network.weight)
        self.networks, self.scores = {"counter": network}, iter(scores)
        self.optimisers = {"counter": constant(torch.optim.SGD(network.parameters(), 1.0))}
        self.seen: list[float] = []

    def batch(self, number: int) -> Tensor:
        return torch.ones(1, 1)

    def turns(self, batch: Tensor, step: int) -> Iterator[Turn]:
        yield Turn("counter", -self.networks["counter"](batch).sum())

    def validate(self, step: int) -> Validation | None:
        self.seen.append(self.networks["counter"].weight.item())
        score = next(self.scores, None)
        return None if score is None else Validation({"score": score}, score, {"at": step})


class GrowingGAN(Toy):
    """A generator and a critic in two phases; the second has longer rows, smaller batches and new optimisers.

    The critic takes two turns per step, before the generator. A pool of earlier fakes is mixed into what the critic
    sees, with torch's generator, and must survive a restart. ``pause``: seconds per batch, to leave time for kills.
    """

    CHANGE = 8
    POOL = 4

    def __init__(self, *, pause: float = 0.0, poisoned: int | None = None) -> None:
        torch.manual_seed(5)
        self.pause, self.poisoned = pause, poisoned
        self.networks = {
            "generator": nn.ModuleList(
                [nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.1)), nn.Linear(8, 2), nn.Linear(8, 4)]
            ),
            "critic": nn.ModuleList([nn.Linear(2, 8), nn.Linear(4, 8), nn.Linear(8, 1)]),
        }
        self.pool: list[Tensor] = []
        self.phase = -1
        self.begin(0)

    @property
    def result(self) -> Sequence[str]:
        return ["generator"]

    def begin(self, step: int) -> None:
        super().begin(step)
        phase = int(step >= self.CHANGE)
        if phase != self.phase:
            self.phase = phase
            self.optimisers = {
                name: constant(torch.optim.Adam(network.parameters(), 0.01)) for name, network in self.networks.items()
            }

    def batch(self, number: int) -> Tensor:
        time.sleep(self.pause)
        shape = (8, 2) if number < self.CHANGE else (4, 4)
        return torch.from_numpy(counter_rng(2, step=number).normal(size=shape)).float()

    def generate(self, count: int) -> Tensor:
        first, small, large = self.networks["generator"]
        hidden = F.dropout(torch.relu(first(torch.randn(count, 2))), 0.1)
        return (large if self.phase else small)(hidden)

    def judge(self, rows: Tensor) -> Tensor:
        small, large, last = self.networks["critic"]
        return last(torch.relu((large if self.phase else small)(rows)))

    def turns(self, batch: Tensor, step: int) -> Iterator[Turn]:
        for _ in range(2):
            fake = self._mixed(self.generate(len(batch)).detach())
            penalty = self._slope(batch)
            loss = self.judge(fake).mean() - self.judge(batch).mean() + penalty
            yield Turn("critic", loss * (float("nan") if step == self.poisoned else 1), {"penalty": penalty.detach()})
        yield Turn("generator", -self.judge(self.generate(len(batch))).mean())

    def _slope(self, rows: Tensor) -> Tensor:
        """Gradient penalty: a gradient of a gradient."""
        rows = rows.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.judge(rows).sum(), rows, create_graph=True)
        return (slope.norm(dim=1) - 1).square().mean()

    def _mixed(self, fake: Tensor) -> Tensor:
        """The fakes, one of them in exchange for an earlier one."""
        earlier = [rows for rows in self.pool if rows.shape == fake[:1].shape]
        self.pool = [*self.pool, fake[:1].clone()][-self.POOL :]
        if not earlier:
            return fake
        return torch.cat([earlier[int(torch.randint(len(earlier), ()))], fake[1:]])

    def state(self) -> State:
        return {"pool": self.pool}

    def resume(self, step: int, state: State | None) -> None:
        self.pool = list(state["pool"]) if state else []


GAN_SETTINGS = Settings(steps=60, seed=3, record_every=8, ema=0.9, clip=1.0, checkpoint_minutes=0.0)


def run_gan(folder: Path, settings: dict[str, Any], pause: float) -> None:
    """Train the GAN into ``folder``/model, with its state in ``folder``/state."""
    objective = GrowingGAN(pause=pause)
    run(objective, Settings(**settings), runtime=CPU, state=folder / "state", output=folder / "model")


def run_line(*, folder: str, steps: int) -> None:
    """Fit the line in one of several processes."""
    place = Path(folder)
    settings = Settings(steps=steps, seed=0, record_every=steps)
    run(Line(), settings, runtime=CPU, state=place / "state", output=place / "model")


class StopAt(Interrupts):
    """Signals that arrive during the step whose batch is ``number``: put around a batch function."""

    def __init__(self, objective: Toy, number: int, signal: int) -> None:
        super().__init__()
        original = objective.batch

        def batch(asked: int) -> Tensor:
            if asked == number:
                self.handle(signal, None)
            return original(asked)

        objective.batch = batch  # type: ignore[method-assign]


def settings_with(**changes: Any) -> Settings:
    """Settings of short runs."""
    return Settings(**{"steps": 4, "seed": 0, "record_every": 2} | changes)
