"""Owns how things are timed side by side: the same work, interleaved, medians of ratios."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable

ROUNDS = 5


def seconds(work: Callable[[], object], before: Callable[[], object] | None = None) -> float:
    """Wall time of one call; ``before``, and what others have left to write to the disk, come first."""
    if before is not None:
        before()
    os.sync()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def side_by_side(
    *works: Callable[[], object], rounds: int = ROUNDS, before: Callable[[], object] | None = None
) -> list[list[float]]:
    """Seconds of each of ``works`` in each round; within a round they follow each other, so they share its noise.

    ``before`` is called before each of them, off the clock.
    """
    took = ([seconds(work, before) for work in works] for _ in range(rounds))
    return [list(column) for column in zip(*took, strict=True)]


def ratio(slower: list[float], faster: list[float]) -> float:
    """Median over the rounds of how many times longer the first took."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def spread(shares: list[float]) -> str:
    """How far rounds of a share lie apart: their quartiles, and an interval for their median.

    The interval holds the median of endless rounds with 95 % confidence, whatever their distribution: it lies between
    two of the ordered values (Conover 1999, section 3.2); of fewer than six rounds it is their range.
    """
    ordered, count = sorted(shares), len(shares)
    below = [sum(math.comb(count, i) for i in range(k + 1)) / 2**count for k in range(count)]
    first = max((k for k in range(count // 2) if below[k] <= 0.025), default=0)
    low, _, high = statistics.quantiles(shares, n=4)
    inner = f"{ordered[first]:.2%} to {ordered[count - 1 - first]:.2%}"
    return f"median of {count} rounds {statistics.median(shares):.2%} ({inner}), quartiles {low:.2%} and {high:.2%}"
