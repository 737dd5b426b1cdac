"""Batches of graphs of different sizes, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class GraphBatch:
    """b graphs with n nodes in all.

    features: float32 (n, d), the nodes of the first graph, then those of the second, and so on.
    edges: int64 (2, e), rows of connected nodes; each edge is there in both directions.
    sizes: number of nodes of each graph, length b, all positive.
    """

    features: Tensor
    edges: Tensor
    sizes: list[int]

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def owner(self) -> Tensor:
        """Graph of each node, int64 (n,)."""
        sizes = torch.tensor(self.sizes, device=self.features.device)
        return torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)

    def to(self, device: torch.device) -> GraphBatch:
        """The same on a device."""
        return GraphBatch(self.features.to(device), self.edges.to(device), self.sizes)

    def part(self, kept: Tensor) -> GraphBatch:
        """Some nodes, int64 (m,) ascending, of a batch of one graph, with the edges between them."""
        number = torch.full((len(self.features),), -1, dtype=torch.int64, device=self.features.device)
        number[kept] = torch.arange(len(kept), device=number.device)
        edges = number[self.edges]
        return GraphBatch(self.features[kept], edges[:, (edges >= 0).all(0)], [len(kept)])

    @classmethod
    def of(cls, features: Sequence[Tensor], pairs: Sequence[Tensor]) -> GraphBatch:
        """A batch of graphs with features (n, d) and pairs int64 (e, 2) of connected nodes, each edge once."""
        sizes = [len(each) for each in features]
        starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        once = torch.cat([each + start for each, start in zip(pairs, starts, strict=False)]).T
        return cls(torch.cat(list(features)), torch.cat([once, once.flip(0)], dim=1), sizes)
