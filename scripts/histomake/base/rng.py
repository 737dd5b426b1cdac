"""Counter-based random numbers: a generator that is a pure function of seed, worker, step and stream.

A run can be repeated, resumed at any step and audited without storing the state of any generator. A worker is a
training process (one GPU), not a loader process: the number of processes that load data must not change what is
trained.
"""

from __future__ import annotations

import numpy as np

DRAW, AUGMENT, ORDER, MODEL, PLACE, BAG = range(6)
"""Independent streams of one (seed, worker, step)."""


def counter_rng(seed: int, *, worker: int = 0, step: int = 0, stream: int = DRAW) -> np.random.Generator:
    """Return the generator of (seed, worker, step, stream).

    Philox with key (seed, worker) and counter (·, ·, stream, step). Streams of different (stream, step) never overlap:
    each has 2¹²⁸ blocks (Salmon et al., SC 2011).
    """
    key = np.array([seed, worker], dtype=np.uint64)
    counter = np.array([0, 0, stream, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
