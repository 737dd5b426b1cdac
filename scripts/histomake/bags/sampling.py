"""Which patches of a bag are drawn for a batch: different ones, or all of a bag that is not larger.

Every function takes a generator of (seed, step, slot), see `histomake.base.rng`, so a draw does not depend on others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.rng import BAG, counter_rng

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MORTON_BITS = 21
"""Bits per axis of a position on the curve."""


@dataclass(frozen=True)
class BagPatches:
    """What sampling knows of the n patches of a bag.

    along: int64 (n,), position on a curve through the slides of the bag, see `curve_positions`.
    group: int (n,), cluster of the features of each patch; None where samplers do not need it.
    containing: which patches contain a structure, bool (n,), by its name.
    """

    along: NDArray[np.int64]
    group: NDArray[np.integer] | None
    containing: Mapping[str, NDArray[np.bool_]]

    def __len__(self) -> int:
        return len(self.along)


def curve_positions(slide: NDArray[np.integer], x: NDArray[np.integer], y: NDArray[np.integer]) -> NDArray[np.int64]:
    """Rank int64 (n,) of each patch on a Z-order curve (Morton 1966) through each slide, one slide after another."""
    code = np.zeros(len(x), np.int64)
    for bit in range(MORTON_BITS):
        code |= ((x.astype(np.int64) >> bit) & 1) << (2 * bit) | ((y.astype(np.int64) >> bit) & 1) << (2 * bit + 1)
    rank = np.empty(len(x), np.int64)
    rank[np.lexsort((code, slide))] = np.arange(len(x))
    return rank


def draw_random(patches: BagPatches, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Any patches, each with the same probability."""
    return rng.choice(len(patches), size, replace=False, shuffle=False)


def draw_spread(patches: BagPatches, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """One patch from each of ``size`` equal parts of the curve, so that the whole tissue is represented."""
    bounds = np.linspace(0, len(patches), size + 1)
    ranks = np.ceil(bounds[:-1]).astype(np.int64)
    width = np.ceil(bounds[1:]).astype(np.int64) - ranks
    ranks += (rng.random(size) * width).astype(np.int64)
    by_rank = np.empty(len(patches), np.int64)
    by_rank[patches.along] = np.arange(len(patches))
    return by_rank[ranks]


def draw_by_cluster(patches: BagPatches, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """As many patches of each cluster as of any other; what small clusters lack is spread over the larger ones."""
    if patches.group is None:
        raise ValueError("patches have no clusters")
    order = rng.permutation(len(patches))
    group = patches.group[order]
    # Take the first of every cluster, then the second of every cluster, and so on, until there are enough.
    turn = np.empty(len(order), np.int64)
    for cluster in np.unique(group):
        members = np.flatnonzero(group == cluster)
        turn[members] = np.arange(len(members))
    return order[np.argsort(turn, kind="stable")[:size]]


SAMPLERS: dict[str, Callable[[BagPatches, int, np.random.Generator], NDArray[np.int64]]] = {
    "random": draw_random,
    "spread": draw_spread,
    "cluster": draw_by_cluster,
}
"""Ways to draw by name."""


@dataclass(frozen=True)
class BagSampler:
    """Draws patches of bags.

    seed: of all draws. name: in SAMPLERS. size: patches per bag. containing: share of a bag's patches that contain a
    structure, as far as the bag has so many.
    """

    seed: int
    name: str
    size: int
    containing: Mapping[str, float]

    def draw(self, patches: BagPatches, *, step: int, slot: int) -> NDArray[np.int64]:
        """Indices int64 (min(size, n),) of the patches drawn for batch ``step``, ascending; ``slot``: place in it."""
        if len(patches) <= self.size:
            return np.arange(len(patches))
        rng = counter_rng(self.seed, worker=slot, step=step, stream=BAG)
        chosen = self._containing(patches, rng)
        rest = np.setdiff1d(np.arange(len(patches)), chosen, assume_unique=True)
        others = _taken(patches, rest) if len(chosen) else patches
        found = SAMPLERS[self.name](others, self.size - len(chosen), rng)
        return np.sort(np.concatenate([chosen, rest[found]]))

    def _containing(self, patches: BagPatches, rng: np.random.Generator) -> NDArray[np.int64]:
        chosen: Sequence[int] | NDArray[np.int64] = np.zeros(0, np.int64)
        for name, share in sorted(self.containing.items()):
            members = np.setdiff1d(np.flatnonzero(patches.containing[name]), chosen)
            count = min(round(share * self.size), len(members), self.size - len(chosen))
            chosen = np.concatenate([chosen, rng.choice(members, count, replace=False)])
        return np.asarray(chosen, np.int64)


def _taken(patches: BagPatches, index: NDArray[np.int64]) -> BagPatches:
    rank = np.empty(len(index), np.int64)
    rank[np.argsort(patches.along[index])] = np.arange(len(index))
    return BagPatches(rank, None if patches.group is None else patches.group[index], {})
