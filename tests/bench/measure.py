"""Timing of alternatives side by side: interleaved rounds and medians of ratios."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable

ROUNDS = 5


def seconds(work: Callable[[], object], before: Callable[[], object] | None = None) -> float:
    """Return the wall time of one call, after ``before`` and after pending writes of other processes."""
    if before is not None:
        before()
    os.sync()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def side_by_side(
    *works: Callable[[], object], rounds: int = ROUNDS, before: Callable[[], object] | None = None
) -> list[list[float]]:
    """Return the seconds of each of ``works`` in each round. Within a round they run one after another.

    They are then subject to the same noise. ``before`` is called before each of them and is not timed.
    """
    took = ([seconds(work, before) for work in works] for _ in range(rounds))
    return [list(column) for column in zip(*took, strict=True)]


def ratio(slower: list[float], faster: list[float]) -> float:
    """Return the median over the rounds of the ratio of both times."""
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


def spread(shares: list[float]) -> str:
    """Describe the spread of repeated shares: their quartiles, and an interval for their median.

    The interval contains the true median with 95 % confidence for any distribution. Its limits are two of the ordered
    values (Conover 1999, section 3.2); with fewer than six rounds it is the range.
    """
    ordered, count = sorted(shares), len(shares)
    below = [sum(math.comb(count, i) for i in range(k + 1)) / 2**count for k in range(count)]
    first = max((k for k in range(count // 2) if below[k] <= 0.025), default=0)
    low, _, high = statistics.quantiles(shares, n=4)
    inner = f"{ordered[first]:.2%} to {ordered[count - 1 - first]:.2%}"
    return f"median of {count} rounds {statistics.median(shares):.2%} ({inner}), quartiles {low:.2%} and {high:.2%}"
