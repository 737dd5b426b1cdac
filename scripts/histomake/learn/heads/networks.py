"""Heads as modules: from features to logits. What is learned, and the scaling of the features, are their tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def layered(inputs: int, hidden: Sequence[int], outputs: int, *, dropout: float) -> nn.Sequential:
    """Hidden layers with GELU, LayerNorm and dropout, and a linear layer to ``outputs``."""
    widths = [inputs, *hidden]
    parts: list[nn.Module] = []
    for before, after in pairwise(widths):
        parts += [nn.Linear(before, after), nn.GELU(), nn.LayerNorm(after), nn.Dropout(dropout)]
    return nn.Sequential(*parts, nn.Linear(widths[-1], outputs))


class Scaled(nn.Module):
    """A network that scales features float (n, d) to mean 0 and deviation 1 of the training patches."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))

    def scale(self, features: Tensor) -> Tensor:
        """Features as the network sees them."""
        return (features - self.mean) / self.deviation


class Head(Scaled, ABC):
    """Scales features float (n, d), and gives logits (n, outputs)."""

    def forward(self, features: Tensor) -> Tensor:
        """Logits (n, outputs) of features float32 (n, d)."""
        return self.logits(self.scale(features))

    @abstractmethod
    def logits(self, scaled: Tensor) -> Tensor:
        """Logits (n, outputs) of scaled features."""


class LinearHead(Head):
    """One weight per feature and output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs)
        self.layer = nn.Linear(inputs, outputs)

    def logits(self, scaled: Tensor) -> Tensor:
        """See Head."""
        return self.layer(scaled)


class LayeredHead(Head):
    """Hidden layers with GELU, each followed by LayerNorm and dropout."""

    def __init__(self, inputs: int, outputs: int, *, hidden: Sequence[int], dropout: float) -> None:
        super().__init__(inputs)
        self.layers = layered(inputs, hidden, outputs, dropout=dropout)

    def logits(self, scaled: Tensor) -> Tensor:
        """See Head."""
        return self.layers(scaled)


class NeighbourHead(Head):
    """Mean of the targets of the nearest training patches by cosine, weighted by their similarity.

    ``as_logits`` turns such means (n, outputs) into logits of the task's kind.
    """

    vectors: Tensor
    values: Tensor
    neighbours: Tensor

    def __init__(self, inputs: int, outputs: int, *, rows: int, as_logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__(inputs)
        self.as_logits = as_logits
        self.register_buffer("vectors", torch.zeros(rows, inputs))
        self.register_buffer("values", torch.zeros(rows, outputs))
        self.register_buffer("neighbours", torch.tensor(1))

    def remember(self, features: Tensor, values: Tensor) -> None:
        """Keep training patches: features (rows, d), and their targets (rows, outputs), NaN where unknown."""
        self.vectors.copy_(nn.functional.normalize(self.scale(features), dim=1))
        self.values.copy_(values)

    def logits(self, scaled: Tensor) -> Tensor:
        """See Head."""
        count = min(int(self.neighbours), len(self.vectors))
        similarity, nearest = (nn.functional.normalize(scaled, dim=1) @ self.vectors.T).topk(count, dim=1)
        found = self.values[nearest]
        known = ~torch.isnan(found)
        # From 0 for the opposite direction to 1 for the same; no weight is zero, so that the sum is not.
        weight = ((1 + similarity) / 2).clamp(min=1e-6).unsqueeze(2) * known
        mean = (weight * torch.nan_to_num(found)).sum(1) / weight.sum(1).clamp(min=1e-12)
        return self.as_logits(mean)
