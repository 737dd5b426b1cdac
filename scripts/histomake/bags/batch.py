"""Batches of bags of different sizes, packed one after the other without padding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from histomake.base.errors import HistomakeError


@dataclass
class Bags:
    """b bags with n patches in all.

    features: float32 (n, d), the patches of the first bag, then those of the second, and so on.
    sizes: number of patches of each bag, length b, all positive.
    places: int64 (n, 3): slide within the bag, column and row of the patch, in strides of the grid.
    """

    features: Tensor
    sizes: list[int]
    places: Tensor

    def __post_init__(self) -> None:
        if min(self.sizes, default=0) < 1:
            raise HistomakeError("a bag has no patch")
        if not sum(self.sizes) == len(self.features) == len(self.places):
            raise ValueError(
                f"{len(self.features)} features and {len(self.places)} places of {sum(self.sizes)} patches"
            )

    def __len__(self) -> int:
        return len(self.sizes)

    @classmethod
    def from_padded(cls, features: Tensor, present: Tensor, places: Tensor) -> Bags:
        """Pack padded bags.

        Args:
            features: float32 (b, m, d).
            present: bool (b, m), False for padding.
            places: int64 (b, m, 3).
        """
        return cls(features[present], present.sum(1).tolist(), places[present])

    def padded(self) -> tuple[Tensor, Tensor, Tensor]:
        """The inverse of `from_padded`: features with zeros as padding, which of them are patches, and places."""
        present = torch.arange(max(self.sizes)) < torch.tensor(self.sizes)[:, None]
        features = self.features.new_zeros(*present.shape, self.features.shape[1])
        places = self.places.new_zeros(*present.shape, self.places.shape[1])
        features[present], places[present] = self.features, self.places
        return features, present, places

    def split(self, values: Tensor) -> Iterator[Tensor]:
        """Values (n, …) of the patches, bag by bag."""
        yield from values.split(self.sizes)
