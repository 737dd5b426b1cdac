"""Sums since the last row of the history: losses, times and counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor


class RunningState(TypedDict):
    """What a checkpoint keeps of the sums."""

    sums: Mapping[str, Sequence[float]]
    steps: int
    units: int
    seconds: float
    waited: float


@dataclass
class Noted:
    """Scalars of one turn over one batch, which may still be on the device; the one called ``loss`` must be finite."""

    loss: str
    values: Mapping[str, Tensor]
    step: int
    naming: Callable[[], str]


@dataclass
class NotFinite:
    """A loss that is not a number."""

    name: str
    step: int
    naming: Callable[[], str]


@dataclass
class Running:
    """Sums since the last row. Values stay on the device until `settle`, so that a step never waits for them."""

    steps: int = 0
    units: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    _pending: list[Noted] = field(default_factory=list)

    @classmethod
    def of(cls, state: RunningState) -> Running:
        """The sums of a checkpoint."""
        sums = {name: (float(total), int(count)) for name, (total, count) in state["sums"].items()}
        return cls(state["steps"], state["units"], state["seconds"], state["waited"], sums)

    def add(self, noted: Noted) -> None:
        """Add scalars without reading them."""
        self._pending.append(noted)

    def settle(self) -> NotFinite | None:
        """Read what was added, waiting for the device once; returns the first loss that is not a number."""
        pending, self._pending = self._pending, []
        if not pending:
            return None
        names = [(name, noted) for noted in pending for name in noted.values]
        values = torch.stack([noted.values[name].detach().float() for name, noted in names]).tolist()
        for (name, _), value in zip(names, values, strict=True):
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + value, count + 1
        for (name, noted), value in zip(names, values, strict=True):
            if name == noted.loss and not math.isfinite(value):
                return NotFinite(name, noted.step, noted.naming)
        return None

    def means(self) -> dict[str, float]:
        """The mean of each scalar so far."""
        return {name: total / count for name, (total, count) in self.sums.items()}

    @property
    def data_wait(self) -> float:
        """Share of the time spent waiting for batches."""
        return self.waited / max(self.seconds, 1e-9)

    def state(self) -> RunningState:
        """The settled sums, for a checkpoint."""
        return {
            "sums": {name: list(pair) for name, pair in self.sums.items()},
            "steps": self.steps,
            "units": self.units,
            "seconds": self.seconds,
            "waited": self.waited,
        }
