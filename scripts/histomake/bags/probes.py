"""What a prediction depends on: the number of patches of the bag, and the patches of highest attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from histomake.bags.batch import Bags
from histomake.bags.pooling import PooledBags, Pooling
from histomake.base.records.bag_probe import SHARES, BagProbe, Removal
from histomake.base.rng import ORDER, counter_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Scores = Callable[[NDArray[np.int64]], NDArray[np.float64]]

SIZES = (12, 64, 512)
"""Numbers of patches with which a bag is predicted besides all of them."""
DRAWS = 5
"""Bags of each size that are drawn."""
ORDERS = 2
"""Random orders that attention is compared with."""


@torch.inference_mode()
def probe(
    pooling: Pooling, pooled: PooledBags, places: Tensor, *, activate: Callable[[Tensor], Tensor], seed: int
) -> BagProbe:
    """Predict one bag again with some of its patches.

    Args:
        pooling: The pooling of the network.
        pooled: What it made of the whole bag of n patches.
        places: Their places, int64 (n, 3), as in `Bags`.
        activate: From logits to scores.
        seed: Of the draws.
    """
    count = len(pooled.instances)

    def scores(index: NDArray[np.int64]) -> NDArray[np.float64]:
        # In ascending order, as all patches are.
        chosen = torch.from_numpy(np.sort(index)).to(pooled.instances.device)
        found = pooling(Bags(pooled.instances[chosen], [len(chosen)], places.to(chosen.device)[chosen]))
        return activate(found.logits)[0].double().cpu().numpy()

    whole = activate(pooled.logits)[0].double().cpu().numpy()
    rng = counter_rng(seed, stream=ORDER)
    sizes = {
        str(size): np.mean([scores(rng.choice(count, size, replace=False)) for _ in range(DRAWS)], axis=0).tolist()
        if size < count
        else whole.tolist()
        for size in SIZES
    }
    if count == 1:
        return BagProbe(sizes=sizes)
    attention, random = removals(scores, whole, pooled.attention.cpu().numpy(), rng)
    return BagProbe(sizes=sizes, attention=attention, random=random)


def removals(
    scores: Scores, whole: NDArray[np.float64], attention: NDArray[np.floating], rng: np.random.Generator
) -> tuple[Removal, Removal]:
    """What the removal of parts of highest attention (n,) changes, and that of random ones; n is at least 2.

    ``scores``: of some of the parts; ``whole``: of all.
    """
    by_attention = np.argsort(-attention, kind="stable")
    random = [_removal(scores, whole, rng.permutation(len(attention))) for _ in range(ORDERS)]
    return _as_record(_removal(scores, whole, by_attention)), _as_record(np.mean(random, axis=0))


def _as_record(changes: NDArray[np.float64]) -> Removal:
    """Changes (2, shares) with their means."""
    return Removal(*changes.mean(1).tolist(), *changes.tolist())


def _removal(
    scores: Scores,
    whole: NDArray[np.float64],
    order: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Changes of the scores without the first patches of an order, and with these alone: (2, shares); see `Removal`."""
    counts = [min(max(round(share * len(order)), 1), len(order) - 1) for share in SHARES]
    deleted = [np.abs(scores(order[count:]) - whole).mean() for count in counts]
    inserted = [np.abs(scores(order[:count]) - whole).mean() for count in counts]
    return np.array([deleted, inserted])
