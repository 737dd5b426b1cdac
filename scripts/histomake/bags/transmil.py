"""TransMIL (Shao et al. 2021): patches attend to each other, and their neighbours on the slide are convolved.

The paper folds the sequence of patches into a square and convolves that. Here a patch's neighbours are those beside it
on the slide, so that the order of patches does not matter and a gap in the tissue is one.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from histomake.bags.batch import Bags
from histomake.bags.pooling import PooledBags, Pooling, PoolingShape
from histomake.learn.heads.networks import layered

EXACT = 4096
"""Tokens up to which each attends to every other; beyond, through landmarks."""

LANDMARKS = 256
INVERSE_STEPS = 6
KERNELS = (7, 5, 3)
"""Edges of the convolutions, in patches."""


class NearbyPatches(nn.Module):
    """Depthwise convolutions over neighbours on the slide (the paper's PPEG), without a dense image of the slide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(
            nn.Conv2d(width, width, k, padding=k // 2, groups=width, bias=False) for k in KERNELS
        )
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Tokens (n, d) plus what their neighbours add; places int64 (n, 3) as in `Bags`."""
        reach = max(KERNELS) // 2
        kernel = tokens.new_zeros(tokens.shape[1], 2 * reach + 1, 2 * reach + 1)
        for edge, conv in zip(KERNELS, self.kernels, strict=True):
            assert isinstance(conv, nn.Conv2d)
            kernel = kernel + nn.functional.pad(conv.weight[:, 0], [reach - edge // 2] * 4)
        at = places - places.min(0).values + torch.tensor([0, reach, reach], device=places.device)
        columns, rows = (int(at[:, axis].max()) + reach + 1 for axis in (1, 2))
        keys = (at[:, 0] * rows + at[:, 2]) * columns + at[:, 1]
        ordered, order = keys.sort()
        found = tokens + self.bias
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                wanted = keys + down * columns + right
                position = torch.searchsorted(ordered, wanted).clamp(max=len(keys) - 1)
                here = ordered[position] == wanted
                weight = kernel[:, down + reach, right + reach]
                found = found + tokens[order[position]] * here[:, None] * weight
        return found


class Attention(nn.Module):
    """Self-attention of the tokens of one bag, the class token first; approximate for large bags."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.inputs = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (n, d), and how much the class token attends to each of them, (n,), mean over the heads."""
        query, key, value = (
            part.reshape(len(tokens), self.heads, -1).transpose(0, 1)
            for part in self.inputs(self.norm(tokens)).chunk(3, dim=1)
        )
        query = query * query.shape[2] ** -0.5
        mixed = _exact(query, key, value) if len(tokens) <= EXACT else _through_landmarks(query, key, value)
        first = (query[:, :1] @ key.transpose(1, 2)).softmax(2)
        mixed = torch.cat([first @ value, mixed[:, 1:]], dim=1)
        return tokens + self.output(mixed.transpose(0, 1).flatten(1)), first[:, 0].mean(0)


def _exact(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.transpose(1, 2)).softmax(2) @ value


def _through_landmarks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Nyström's approximation (Xiong et al. 2021); landmarks are means of tokens that follow each other by place."""
    bounds = torch.linspace(0, query.shape[1], LANDMARKS + 1).round().long().tolist()
    sizes = [after - before for before, after in pairwise(bounds)]
    few_queries, few_keys = (
        torch.stack([part.mean(1) for part in each.split(sizes, dim=1)], dim=1) for each in (query, key)
    )
    between = (few_queries @ few_keys.transpose(1, 2)).softmax(2)
    summary = _inverse(between) @ ((few_queries @ key.transpose(1, 2)).softmax(2) @ value)
    return (query @ few_keys.transpose(1, 2)).softmax(2) @ summary


def _inverse(matrix: Tensor) -> Tensor:
    """Pseudo-inverse of (heads, m, m) by iteration (Xiong et al. 2021, eq. 11)."""
    eye = torch.eye(matrix.shape[-1], device=matrix.device, dtype=matrix.dtype)
    norms = matrix.abs().sum(1).amax(1) * matrix.abs().sum(2).amax(1)
    found = matrix.transpose(1, 2) / norms[:, None, None]
    for _ in range(INVERSE_STEPS):
        product = matrix @ found
        found = found @ (13 * eye - product @ (15 * eye - product @ (7 * eye - product))) / 4
    return found


class TransformerPooling(Pooling):
    """Two layers of attention with convolutions of neighbours between them; the class token is classified.

    The attention of a patch is that of the class token in the second layer.
    """

    def __init__(self, shape: PoolingShape) -> None:
        super().__init__()
        self.first_token = nn.Parameter(0.02 * torch.randn(shape.width))
        layers = (Attention(shape.width, heads=shape.heads, dropout=shape.dropout) for _ in range(2))
        self.before, self.after = layers
        self.nearby = NearbyPatches(shape.width)
        self.norm = nn.LayerNorm(shape.width)
        self.classify = layered(shape.width, shape.classifier, shape.outputs, dropout=shape.dropout)

    def forward(self, bags: Bags) -> PooledBags:
        """See Pooling."""
        parts = [self._pool(*bag) for bag in zip(bags.split(bags.features), bags.split(bags.places), strict=True)]
        tokens, attention = zip(*parts, strict=True)
        return PooledBags(self.classify(self.norm(torch.stack(tokens))), torch.cat(attention), None, bags.features)

    def _pool(self, instances: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The class token of one bag, and its attention to the patches."""
        order = _by_place(places)
        tokens = torch.cat([self.first_token[None], instances[order]])
        tokens, _ = self.before(tokens)
        tokens = torch.cat([tokens[:1], self.nearby(tokens[1:], places[order])])
        tokens, attention = self.after(tokens)
        found = torch.empty_like(attention[1:])
        found[order] = attention[1:] / attention[1:].sum().clamp(min=1e-12)
        return tokens[0], found


def _by_place(places: Tensor) -> Tensor:
    """Order of patches by slide, row and column."""
    order = torch.arange(len(places), device=places.device)
    for axis in (1, 2, 0):
        order = order[places[order, axis].argsort(stable=True)]
    return order
