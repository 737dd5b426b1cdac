"""Which patch is drawn at which step: weights over all usable patches, and draws from them.

A draw is a pure function of (seed, worker, step), see `histomake.base.rng`. After histo-fetch, without its defects:
weights may follow slide, area or class, and positions are looked up instead of searched for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from histomake.base.rng import ORDER, counter_rng

Balance = Literal["class", "slide", "area"]


def balance_weights(
    *, slide: np.ndarray, group: np.ndarray, balance: Balance, shares: Mapping[int, float] | None = None
) -> np.ndarray:
    """Probability of each patch, float64 (n,), summing to 1.

    ``slide`` int (n,) and ``group`` int (n,) name each patch's slide and class (-1: none). "area" draws patches as
    they come (every patch covers the same area), "slide" gives each slide the same total, "class" each class the
    same total or the share given for it in ``shares``; patches without a class are then never drawn.
    """
    if balance == "area":
        return np.full(len(slide), 1.0 / len(slide))
    keys = slide if balance == "slide" else group
    wanted = keys >= 0
    present, inverse, counts = np.unique(keys[wanted], return_inverse=True, return_counts=True)
    share = np.array([(shares or {}).get(int(key), 0.0 if shares else 1.0) for key in present])
    if share.sum() <= 0:
        raise ValueError("no patch has a class with a positive share")
    weights = np.zeros(len(keys))
    weights[wanted] = (share / share.sum() / counts)[inverse]
    return weights


def mix_containing(weights: np.ndarray, structures: Sequence[tuple[np.ndarray, float]]) -> np.ndarray:
    """Weights under which the given share of the draws is made among the patches that contain a structure.

    ``structures``: for each, which patches contain it, bool (n,), and its share; the rest is drawn by ``weights``.
    """
    mixed = (1.0 - sum(share for _, share in structures)) * weights
    for contains, share in structures:
        if not contains.any():
            raise ValueError("no patch contains the structure that is to be drawn on purpose")
        mixed = mixed + share * contains / contains.sum()
    return mixed


@dataclass(frozen=True)
class Sampler:
    """Draws patches with replacement, by inverse-CDF sampling over ``cumulative`` float64 (n,)."""

    cumulative: np.ndarray
    seed: int

    @classmethod
    def from_weights(cls, weights: np.ndarray, *, seed: int) -> Sampler:
        """A sampler over ``weights`` float (n,) ≥ 0, not necessarily normalised."""
        cumulative = np.cumsum(weights, dtype=np.float64)
        if not len(cumulative) or not np.isfinite(cumulative[-1]) or cumulative[-1] <= 0:
            raise ValueError("the sampler has no patch with a positive weight")
        return cls(cumulative / cumulative[-1], seed)

    def draw(self, step: int, count: int, *, worker: int = 0) -> np.ndarray:
        """Indices int64 (count,) of the patches of one batch."""
        return self.locate(counter_rng(self.seed, worker=worker, step=step).random(count))

    def redraw(self, step: int, *, worker: int, slot: int, attempt: int) -> int:
        """One index in place of the ``slot``-th draw of a batch whose patch could not be read."""
        seed = np.random.SeedSequence([self.seed, slot, attempt]).generate_state(1, np.uint64)[0]
        return int(self.locate(counter_rng(int(seed), worker=worker, step=step).random(1))[0])

    def locate(self, uniform: np.ndarray) -> np.ndarray:
        """Indices int64 of the patches that own the points ``uniform`` in [0, 1) of the cumulative weights."""
        return np.searchsorted(self.cumulative, uniform, side="right").astype(np.int64)


def choose(count: int, size: int, *, seed: int) -> np.ndarray:
    """``min(count, size)`` different indices below ``size``, sorted: a fixed subset, such as for validation."""
    order = counter_rng(seed, stream=ORDER).permutation(size)
    return np.sort(order[:count])
