"""The training loop: steps, accumulation, mixed precision, several processes, checkpoints and resuming.

What a step computes depends on (seed, step) and the weights alone, so a run resumed from any checkpoint ends with the
same weights as one that was never interrupted: bit for bit on a CPU with the same number of threads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypedDict, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from histomake.base.errors import HistomakeError
from histomake.learn.engine import distributed
from histomake.learn.engine.averaging import Average, AverageState
from histomake.learn.engine.checkpoint import State, digest, load_state, save_state
from histomake.learn.engine.history import EVENTS, add_events
from histomake.learn.engine.objective import Json, Objective, Result, Turn, Validation
from histomake.learn.engine.running import Noted, Running, RunningState
from histomake.learn.engine.runtime import Interrupts, PreemptedError, Runtime, advise_on_memory, seed_step
from histomake.learn.engine.settings import Settings

log = logging.getLogger(__name__)

LOG_EVERY = 20
FORMAT = 2
"""Format of the checkpoint. A checkpoint of another format is not resumed."""


class Best(TypedDict):
    """The best weights so far, by network, and their validation; no weights in processes other than the first."""

    step: int
    score: float
    figures: Mapping[str, float]
    kept: Mapping[str, Json]
    weights: Mapping[str, Mapping[str, Tensor]]


class RunState(TypedDict):
    """A checkpoint of a run; ``objective`` has one entry per process."""

    identity: str
    step: int
    networks: Mapping[str, Mapping[str, Tensor]]
    optimisers: Mapping[str, dict[str, object]]
    schedules: Mapping[str, dict[str, object]]
    scaler: dict[str, object]
    averages: Mapping[str, AverageState]
    history: list[dict[str, float]]
    best: Best | None
    running: RunningState
    objective: list[State]


class Trainer[B]:
    """One process of one training run. The first process also validates and saves."""

    def __init__(self, objective: Objective[B], settings: Settings, *, runtime: Runtime, state: Path) -> None:
        self.objective, self.settings = objective, settings
        self.runtime, self.state = runtime, state
        self.process, self.processes = distributed.rank(), distributed.size()
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.scaled)
        for network in objective.networks.values():
            distributed.copy_from_first(network.state_dict().values())
        self.averages: dict[str, Average] = {}
        if settings.ema is not None:
            averaged = {name: objective.networks[name] for name in objective.result}
            self.averages = {name: Average(network, settings.ema) for name, network in averaged.items()}
        self.step = 0
        self.history: list[dict[str, float]] = []
        self.best: Best | None = None
        self.running = Running()

    @property
    def identity(self) -> str:
        """Digest of everything that determines the final weights. A state with another identity is not resumed."""
        shaping = {"settings": self.settings.shaping(), "processes": self.processes, "format": FORMAT}
        return digest(shaping | {"objective": self.objective.identity()})

    def run(self, interrupts: Interrupts) -> Result:
        """Train to the last step or until patience is exhausted, from the saved state if there is one.

        Raises PreemptedError when asked to stop, once the state is saved, and HistomakeError when a loss is not a
        number or memory runs out. The result is complete in the first process only.
        """
        self.resume()
        accumulate = self.settings.accumulate
        numbers = range(self.step * accumulate, self.settings.steps * accumulate)
        with self.objective.batches(numbers) as batches:
            self._run(batches, interrupts)
        self.objective.state()
        distributed.from_first(None)
        return self._result()

    def _run(self, batches: Iterator[B], interrupts: Interrupts) -> None:
        settings, saved_at = self.settings, time.monotonic()
        while self.step < settings.steps and not self.has_settled():
            started = time.monotonic()
            with advise_on_memory(self.objective.out_of_memory):
                self.train_step(batches)
            self.running.seconds += time.monotonic() - started
            if self.step % LOG_EVERY == 0:
                log.info("step %d of %d: %s", self.step, settings.steps, self._progress())
            if self.step % settings.record_every == 0 or self.step == settings.steps:
                self.record()
            due = time.monotonic() - saved_at > 60 * settings.checkpoint_minutes
            save, stop = distributed.any_of(interrupts.save or due, interrupts.stop)
            if save:
                self.save()
                interrupts.save, saved_at = False, time.monotonic()
            if stop:
                raise PreemptedError(
                    f"stopped by a signal at step {self.step}; the state is in {self.state}: run it again"
                )

    def has_settled(self) -> bool:
        """Whether the last ``patience`` validations gave no improvement."""
        if self.settings.patience is None or self.best is None:
            return False
        return sum(row["step"] > self.best["step"] for row in self.history) >= self.settings.patience

    def train_step(self, batches: Iterator[B]) -> None:
        """One step: each turn over ``accumulate`` batches, then the next turn."""
        seed_step(self.settings.seed, worker=self.process, step=self.step)
        self.objective.begin(self.step)
        parts = [self._turns(batches) for _ in range(self.settings.accumulate)]
        while (optimiser := self._backward(parts)) is not None:
            self._update(optimiser)
        for optimisation in self.objective.optimisers.values():
            optimisation.schedule.step()
        for name, average in self.averages.items():
            average.update(self.objective.networks[name])
        self.step += 1
        self.running.steps += 1
        if self.step % LOG_EVERY == 0:
            self.check_losses()

    def _turns(self, batches: Iterator[B]) -> Iterator[tuple[Turn, Noted]]:
        """The turns over one batch, which is fetched when the first turn is requested."""
        started = time.monotonic()
        batch = next(batches)
        self.running.waited += time.monotonic() - started
        self.running.units += self.objective.size(batch)
        naming = self.objective.naming(batch)
        for turn in self.objective.turns(batch, self.step):
            yield turn, self._noted(turn, naming)

    def _noted(self, turn: Turn, naming: Callable[[], str]) -> Noted:
        name = "loss" if len(self.objective.optimisers) == 1 else f"{turn.optimiser}_loss"
        return Noted(name, {name: turn.loss.detach(), **turn.figures}, self.step, naming)

    def _backward(self, parts: Sequence[Iterator[tuple[Turn, Noted]]]) -> str | None:
        """Accumulate the gradients of the next turn over all parts; return its optimiser, None after the last turn."""
        taken: set[str | None] = set()
        for part in parts:
            turn, noted = next(part, (None, None))
            taken.add(None if turn is None else turn.optimiser)
            if turn is not None and noted is not None:
                loss = self.scaler.scale(turn.loss / len(parts))
                loss.backward(inputs=self._inputs(turn.optimiser))
                self.running.add(noted)
            del turn, noted
        if len(taken) != 1:
            raise ValueError(f"the batches of step {self.step} take different turns: {taken}")
        return taken.pop()

    def _inputs(self, name: str) -> list[Tensor] | None:
        """The parameters that receive gradients; None, for all, if there is only one optimiser."""
        return None if len(self.objective.optimisers) == 1 else self._parameters(name)

    def _parameters(self, name: str) -> list[Tensor]:
        """The trainable parameters of an optimiser, in the order of the networks."""
        own = {id(p) for group in self.objective.optimisers[name].optimiser.param_groups for p in group["params"]}
        everything = (p for network in self.objective.networks.values() for p in network.parameters())
        return [p for p in everything if id(p) in own and p.requires_grad]

    def _update(self, name: str) -> None:
        """Apply an optimiser's gradients."""
        optimiser = self.objective.optimisers[name].optimiser
        if self.processes > 1:
            distributed.average_gradients(self._parameters(name))
        if self.settings.clip is not None:
            self.scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(self._parameters(name), self.settings.clip)
        self.scaler.step(optimiser)
        self.scaler.update()
        optimiser.zero_grad(set_to_none=True)

    def check_losses(self) -> None:
        """Stop at the first loss that is not a number, naming the step and what was in the batch."""
        found = self.running.settle()
        if found is not None:
            raise HistomakeError(
                f"the {found.name} is not a number at step {found.step}; {self.objective.not_finite}. "
                f"In the batch: {found.naming()}"
            )

    def _progress(self) -> str:
        """Losses, speed and time left, from the steps since the last row of the history."""
        running = self.running
        seconds = running.seconds / max(running.steps, 1)
        minutes = (self.settings.steps - self.step) * seconds / 60
        speed = running.units * self.processes / max(running.seconds, 1e-9)
        figures = ", ".join(f"{name} {value:.4f}" for name, value in running.means().items())
        return (
            f"{figures}, {speed:.0f} {self.objective.unit}/s, {100 * running.data_wait:.0f} % waiting for data, "
            f"{minutes:.0f} min left"
        )

    def record(self) -> None:
        """Add a row to the history; validate, and keep the weights if they are the best so far."""
        self.check_losses()
        if self.process == 0:
            row = self._training_row()
            found = self._validate()
            if found is not None:
                row |= {f"val_{name}": value for name, value in found.figures.items()}
                log.info("validation at step %d: %s", self.step, {k: round(v, 4) for k, v in found.figures.items()})
                self._keep(found)
            self.history.append(row)
            add_events(self.state / EVENTS, row)
        best_step = distributed.from_first(self.best and self.best["step"])
        if self.process and best_step is not None:
            self.best = Best(step=best_step, score=0.0, figures={}, kept={}, weights={})
        self.history = distributed.from_first(self.history)
        self.running = Running()

    def _training_row(self) -> dict[str, float]:
        return {
            "step": self.step,
            **{f"train_{name}": value for name, value in self.running.means().items()},
            **{f"learning_rate{suffix}": rate for suffix, rate in self._rates()},
            "seconds": round(self.running.seconds, 3),
            "data_wait": round(self.running.data_wait, 4),
            **self.objective.counters(),
        }

    def _rates(self) -> Iterator[tuple[str, float]]:
        """The learning rate of the last parameter group of each optimiser, named by it if there are several."""
        optimisers = self.objective.optimisers
        for name, each in optimisers.items():
            yield "" if len(optimisers) == 1 else f"_{name}", float(each.optimiser.param_groups[-1]["lr"])

    def _validate(self) -> Validation | None:
        with torch.inference_mode(), ExitStack() as stack:
            for name, average in self.averages.items():
                stack.enter_context(average.in_place(self.objective.networks[name]))
            for network in self.objective.networks.values():
                network.eval()
            return self.objective.validate(self.step)

    def _keep(self, found: Validation) -> None:
        if self.best is None or found.score > self.best["score"]:
            self.best = Best(
                step=self.step, score=found.score, figures=found.figures, kept=found.kept, weights=self._weights()
            )

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        """Copies, in main memory, of the weights that would be the result now."""
        found: dict[str, dict[str, Tensor]] = {}
        for name in self.objective.result:
            average = self.averages.get(name)
            values = average.values if average else self.objective.networks[name].state_dict()
            found[name] = {key: value.detach().cpu().clone() for key, value in values.items()}
        return found

    def _result(self) -> Result:
        if self.best is None:
            return Result(self.step, self._weights(), {}, {}, self.history)
        return Result(self.best["step"], self.best["weights"], self.best["figures"], self.best["kept"], self.history)

    def save(self) -> None:
        """Write the state from which ``resume`` continues."""
        self.check_losses()
        objective = distributed.to_first(self.objective.state())
        if self.process:
            return
        optimisers = self.objective.optimisers
        state: RunState = {
            "identity": self.identity,
            "step": self.step,
            "networks": {name: network.state_dict() for name, network in self.objective.networks.items()},
            "optimisers": {name: each.optimiser.state_dict() for name, each in optimisers.items()},
            "schedules": {name: each.schedule.state_dict() for name, each in optimisers.items()},
            "scaler": self.scaler.state_dict(),
            "averages": {name: average.state() for name, average in self.averages.items()},
            "history": self.history,
            "best": self.best,
            "running": self.running.state(),
            "objective": objective,
        }
        save_state(self.state, cast("State", state))
        log.info("state saved at step %d", self.step)

    def resume(self) -> None:
        """Continue from the saved state, if there is one of this run."""
        saved = load_state(self.state)
        if saved is not None and saved.get("identity") != self.identity:
            log.warning("%s holds the state of another configuration: training starts from step 0", self.state)
            saved = None
        if saved is None:
            self.objective.resume(0, None)
            return
        self._restore(cast("RunState", saved))
        log.info("resumed at step %d of %d from %s", self.step, self.settings.steps, self.state)

    def _restore(self, saved: RunState) -> None:
        self.step = saved["step"]
        # The state was saved after this step, before the objective prepared the next, which may be of another phase.
        self.objective.begin(self.step - 1)
        for name, network in self.objective.networks.items():
            network.load_state_dict(saved["networks"][name])
        for name, each in self.objective.optimisers.items():
            each.optimiser.load_state_dict(saved["optimisers"][name])
            _restore_memory_format(each.optimiser)
            each.schedule.load_state_dict(saved["schedules"][name])
        self.scaler.load_state_dict(saved["scaler"])
        for name, average in self.averages.items():
            average.restore(saved["averages"][name])
        self.history, self.running = saved["history"], Running.of(saved["running"])
        self.best = saved["best"]
        self.objective.resume(self.step, saved["objective"][self.process])


def _restore_memory_format(optimiser: Optimizer) -> None:
    """Loading leaves the moments contiguous; give each the strides of its weight, as before the checkpoint."""
    for parameter, moments in optimiser.state.items():
        for key, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
                moments[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
