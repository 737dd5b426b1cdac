"""The network of a task on bags: scaling of features, embedding of patches, pooling, and its baselines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from histomake.bags import pooling
from histomake.bags.batch import Bags
from histomake.bags.hazards import IntervalHazards
from histomake.bags.index import BagIndex
from histomake.bags.pooling import PooledBags, Pooling, PoolingShape
from histomake.bags.transmil import TransformerPooling
from histomake.config import BagPooling
from histomake.learn.heads.networks import Scaled

ADDITIVE = ("additive", "topk")
"""Poolings that sum logits of patches."""

PART = 8192
"""Patches that are embedded at once in prediction."""


def _parts(bags: BagIndex, bag: int) -> Iterator[Bags]:
    count = len(bags.members[bag])
    yield from (bags.part(bag, start, min(start + PART, count)) for start in range(0, count, PART))


def build_pooling(settings: BagPooling, *, width: int, outputs: int) -> Pooling:
    """Build a pooling with random weights."""
    shape = PoolingShape(
        width=width,
        outputs=outputs,
        hidden=settings.hidden,
        classifier=settings.classifier,
        heads=settings.heads,
        dropout=settings.dropout,
        top=settings.top,
    )
    builders: dict[str, Callable[[], Pooling]] = {
        "mean": lambda: pooling.MeanPooling(shape),
        "max": lambda: pooling.MaxPooling(shape),
        "topk": lambda: pooling.TopPooling(shape),
        "attention": lambda: pooling.AttentionPooling(shape, gated=False),
        "gated": lambda: pooling.AttentionPooling(shape, gated=True),
        "dsmil": lambda: pooling.DualStreamPooling(shape),
        "clam": lambda: pooling.ClamPooling(shape),
        "transmil": lambda: TransformerPooling(shape),
        "additive": lambda: pooling.AdditivePooling(shape, normalised=settings.normalise),
    }
    return builders[settings.name]()


def build_embedding(settings: BagPooling, *, inputs: int) -> nn.Module:
    """From features of patches to what is pooled, with random weights."""
    if settings.embed is None:
        return nn.Identity()
    width = settings.embed
    return nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU(), nn.Dropout(settings.dropout))


class Baselined(Scaled, ABC):
    """A network that predicts bags, with scaling of features and baselines, which are fitted and not trained.

    Features are scaled to mean 0 and deviation 1 of the training patches. The baselines are a linear model of the mean
    of a bag's scaled features, and the most frequent target of the training bags, both as logits. ``hazards`` is what
    the loss hazards learns besides risks.
    """

    linear_weight: Tensor
    linear_bias: Tensor
    usual: Tensor

    def __init__(self, *, inputs: int, outputs: int, hazards: IntervalHazards | None = None) -> None:
        super().__init__(inputs)
        self.hazards = hazards
        self.register_buffer("linear_weight", torch.zeros(outputs, inputs))
        self.register_buffer("linear_bias", torch.zeros(outputs))
        self.register_buffer("usual", torch.zeros(outputs))

    @abstractmethod
    def predict_bag(self, bags: BagIndex, bag: int, device: torch.device) -> tuple[PooledBags, Tensor]:
        """Predict one bag as a whole.

        Returns what was found, and the mean (1, d) of the scaled features, of which `linear` makes logits.
        """

    def mean_of(self, bags: BagIndex, bag: int) -> Tensor:
        """Mean (d,) of the scaled features of one bag, on the CPU."""
        total = torch.stack([self.scale(part.features).sum(0) for part in _parts(bags, bag)]).sum(0)
        return total / len(bags.members[bag])

    def linear(self, means: Tensor) -> Tensor:
        """Logits (b, outputs) of the linear baseline, from means (b, d) of scaled features."""
        return means @ self.linear_weight.T + self.linear_bias


class BagNetwork(Baselined):
    """Embeds every patch, and pools."""

    def __init__(
        self, settings: BagPooling, *, inputs: int, outputs: int, hazards: IntervalHazards | None = None
    ) -> None:
        super().__init__(inputs=inputs, outputs=outputs, hazards=hazards)
        self.embed = build_embedding(settings, inputs=inputs)
        self.pooling = build_pooling(settings, width=settings.embed or inputs, outputs=outputs)

    def forward(self, bags: Bags) -> PooledBags:
        """Pool bags of features float32 (n, d)."""
        return self.pooling(Bags(self.embed(self.scale(bags.features)), bags.sizes, bags.places))

    @torch.inference_mode()
    def predict_bag(self, bags: BagIndex, bag: int, device: torch.device) -> tuple[PooledBags, Tensor]:
        """See Baselined: all patches are pooled, and their features read in parts."""
        parts, places, total = [], [], torch.zeros_like(self.mean)
        for part in _parts(bags, bag):
            scaled = self.scale(part.features.to(device))
            total += scaled.sum(0)
            parts.append(self.embed(scaled))
            places.append(part.places)
        embedded = torch.cat(parts)
        pooled = self.pooling(Bags(embedded, [len(embedded)], torch.cat(places).to(device)))
        return pooled, (total / len(embedded))[None]
