"""The network of a task on bags: scaling of features, embedding of patches, pooling, and its baselines."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from histomake.bags import pooling
from histomake.bags.batch import Bags
from histomake.bags.pooling import PooledBags, Pooling, PoolingShape
from histomake.bags.transmil import TransformerPooling
from histomake.config import BagPooling

PART = 8192
"""Patches that are embedded at once in prediction."""


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


class BagNetwork(nn.Module):
    """Scales features to mean 0 and deviation 1 of the training patches, embeds every patch, and pools.

    Its buffers hold two baselines that are fitted and not trained: a linear model of the mean of a bag's scaled
    features, and the most frequent target of the training bags, both as logits.
    """

    mean: Tensor
    deviation: Tensor
    linear_weight: Tensor
    linear_bias: Tensor
    usual: Tensor

    def __init__(self, settings: BagPooling, *, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))
        self.register_buffer("linear_weight", torch.zeros(outputs, inputs))
        self.register_buffer("linear_bias", torch.zeros(outputs))
        self.register_buffer("usual", torch.zeros(outputs))
        self.embed: nn.Module = nn.Identity()
        if settings.embed is not None:
            width = settings.embed
            drop = nn.Dropout(settings.dropout)
            self.embed = nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU(), drop)
        self.pooling = build_pooling(settings, width=settings.embed or inputs, outputs=outputs)

    def scale(self, features: Tensor) -> Tensor:
        """Features as the network sees them."""
        return (features - self.mean) / self.deviation

    def forward(self, bags: Bags) -> PooledBags:
        """Pool bags of features float32 (n, d)."""
        return self.pooling(Bags(self.embed(self.scale(bags.features)), bags.sizes, bags.places))

    @torch.inference_mode()
    def predict(self, read: Callable[[int, int], Tensor], places: Tensor) -> tuple[PooledBags, Tensor]:
        """Pool one bag of any size, reading its features in parts; also the logits (1, outputs) of the linear baseline.

        ``read``: features of the patches from one number up to, without, another.
        """
        parts, total, count = [], torch.zeros_like(self.mean), len(places)
        for start in range(0, count, PART):
            scaled = self.scale(read(start, min(start + PART, count)))
            total += scaled.sum(0)
            parts.append(self.embed(scaled))
        pooled = self.pooling(Bags(torch.cat(parts), [count], places))
        return pooled, self.linear((total / count)[None])

    def linear(self, means: Tensor) -> Tensor:
        """Logits (b, outputs) of the linear baseline, from means (b, d) of scaled features."""
        return means @ self.linear_weight.T + self.linear_bias
