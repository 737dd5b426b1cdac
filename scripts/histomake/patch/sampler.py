"""Random sampling of patches: weights over all usable patches, and reproducible draws from them.

A draw is a pure function of (seed, worker, step), see `histomake.base.rng`. The method follows histo-fetch, with two
improvements: weights may depend on slide, area or class, and positions are looked up instead of searched for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from histomake.base.rng import ORDER, counter_rng

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUM_TOLERANCE = 1e-3
"""Shares such as 0.333 may miss a sum of 1 by this."""

Balance = Literal["class", "slide", "area"]


def balance_weights(
    *,
    slide: NDArray[np.integer],
    group: NDArray[np.integer],
    balance: Balance,
    shares: Mapping[int, float] | None = None,
    parts: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the probability of each patch, float64 (n,), summing to 1.

    Args:
        slide: int (n,), slide of each patch.
        group: int (n,), class of each patch, -1 for none.
        balance: "area" draws all patches with the same probability (every patch covers the same area), "slide" gives
            each slide the same total probability, "class" each class. With "class", patches without a class are never
            drawn.
        shares: Total probability of some classes; the other classes that have patches share the rest equally.
        parts: What each row counts: 1/r for each of r rows that are one patch. None: every row is a patch.

    Raises ValueError if shares cannot be kept, because no patch has the class.
    """
    if parts is None:
        parts = np.ones(len(slide))
    if balance == "area":
        return parts / parts.sum()
    keys = slide if balance == "slide" else group
    wanted = keys >= 0
    present, inverse = np.unique(keys[wanted], return_inverse=True)
    share = _shares(shares or {}, present.tolist())
    weights = np.zeros(len(keys))
    weights[wanted] = (share / share.sum() / np.bincount(inverse, parts[wanted]))[inverse] * parts[wanted]
    return weights


def _shares(named: Mapping[int, float], present: Sequence[int]) -> NDArray[np.float64]:
    """Total probability of each of the classes that have patches. Those that are not named share the rest equally."""
    missing = sorted(key for key, share in named.items() if share > 0 and key not in present)
    if missing:
        raise ValueError(f"no patch of class {', '.join(map(str, missing))}, which has a positive share")
    others = [key for key in present if key not in named]
    rest = 1.0 - sum(named.values())
    if not others and abs(rest) > SUM_TOLERANCE:
        raise ValueError(f"the shares of all classes that have patches sum to {1 - rest:g}, not to 1")
    return np.array([named[key] if key in named else rest / len(others) for key in present])


def mix_containing(
    weights: NDArray[np.float64],
    structures: Sequence[tuple[NDArray[np.bool_], float]],
    *,
    parts: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return weights with which a given share of the draws is made from the patches that contain a structure.

    ``structures`` lists for each structure which patches contain it, bool (n,), and its share. All other draws follow
    ``weights``. ``parts``: as for `balance_weights`.
    """
    if parts is None:
        parts = np.ones(len(weights))
    mixed = (1.0 - sum(share for _, share in structures)) * weights
    for contains, share in structures:
        if not contains.any():
            raise ValueError("no patch contains a structure that has a sampling share")
        mixed = mixed + share * contains * parts / parts[contains].sum()
    return mixed


@dataclass(frozen=True)
class Sampler:
    """Draws patches with replacement, by inverse-CDF sampling over ``cumulative`` float64 (n,)."""

    cumulative: NDArray[np.float64]
    seed: int

    @classmethod
    def from_weights(cls, weights: NDArray[np.float64], *, seed: int) -> Sampler:
        """Create a sampler for ``weights`` float (n,) ≥ 0, which need not be normalised."""
        cumulative = np.cumsum(weights, dtype=np.float64)
        if not len(cumulative) or not np.isfinite(cumulative[-1]) or cumulative[-1] <= 0:
            raise ValueError("the sampler has no patch with a positive weight")
        return cls(cumulative / cumulative[-1], seed)

    def draw(self, step: int, count: int, *, worker: int = 0) -> NDArray[np.int64]:
        """Return the indices of the patches of one batch, int64 (count,)."""
        return self.locate(counter_rng(self.seed, worker=worker, step=step).random(count))

    def redraw(self, step: int, *, worker: int, slot: int, attempt: int) -> int:
        """Return one index to replace the ``slot``-th draw of a batch if its patch could not be read."""
        seed = np.random.SeedSequence([self.seed, slot, attempt]).generate_state(1, np.uint64)[0]
        return int(self.locate(counter_rng(int(seed), worker=worker, step=step).random(1))[0])

    def locate(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the indices, int64, of the patches at the points ``uniform`` in [0, 1) of the cumulative weights."""
        return np.searchsorted(self.cumulative, uniform, side="right").astype(np.int64)


def choose(count: int, size: int, *, seed: int) -> NDArray[np.int64]:
    """Choose ``min(count, size)`` different indices below ``size``, sorted; for fixed subsets such as validation."""
    order = counter_rng(seed, stream=ORDER).permutation(size)
    return np.sort(order[:count])
