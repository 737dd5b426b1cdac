"""Exponential moving averages of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypedDict

import torch
from torch import Tensor, nn

START = 10
"""Early in training, the average covers about a tenth of the updates so far, until ``decay`` covers fewer."""


class AverageState(TypedDict):
    """What a checkpoint keeps of an average."""

    updates: int
    values: Mapping[str, Tensor]


class Average:
    """Average a of weights w over updates n = 0, 1, …: a ← d · a + (1 - d) · w with d = min(decay, n / (n + START)).

    The first update copies the weights. Buffers are averaged like weights, or copied if they are not floating-point.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Update with the network's current weights, without waiting for the device."""
        share = max(1 - self.decay, 1 / (1 + self.updates / START))
        current = network.state_dict()
        averaged = [name for name, value in self.values.items() if value.is_floating_point() and self.updates]
        for name in self.values.keys() - set(averaged):
            self.values[name].copy_(current[name])
        if averaged:
            values = [self.values[name] for name in averaged]
            changes = torch._foreach_sub([current[name] for name in averaged], values)
            torch._foreach_mul_(changes, share)
            torch._foreach_add_(values, changes)
        self.updates += 1

    @contextmanager
    def in_place(self, network: nn.Module) -> Iterator[None]:
        """Give ``network`` the averaged weights inside the context."""
        before = {name: value.detach().clone() for name, value in network.state_dict().items()}
        network.load_state_dict(self.values)
        try:
            yield
        finally:
            network.load_state_dict(before)

    def state(self) -> AverageState:
        """Return the state for a checkpoint."""
        return {"updates": self.updates, "values": self.values}

    @torch.no_grad()
    def restore(self, state: AverageState) -> None:
        """Restore the state of a checkpoint."""
        self.updates = state["updates"]
        for name, value in self.values.items():
            value.copy_(state["values"][name])
