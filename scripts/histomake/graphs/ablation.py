"""The same nodes with other edges, which tells what the edges of a graph add."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.records.graph import REWIRED, WITHOUT_EDGES
from histomake.base.rng import ORDER, counter_rng
from histomake.graphs.edges import once
from histomake.graphs.index import GraphIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDS = 20
"""Times that every edge is tried to be exchanged with another one."""


def without_edges(graphs: GraphIndex, *, seed: int) -> GraphIndex:
    """The nodes alone."""
    return replace(graphs, links={name: np.zeros((0, 2), np.int64) for name in graphs.links})


def rewired(graphs: GraphIndex, *, seed: int) -> GraphIndex:
    """Edges between random nodes of the same graph; every node has as many as before."""
    links = {
        name: rewire(pairs, counter_rng(seed, worker=zlib.crc32(name.encode()), stream=ORDER))
        for name, pairs in graphs.links.items()
    }
    return replace(graphs, links=links)


ABLATIONS: dict[str, Callable[..., GraphIndex]] = {WITHOUT_EDGES: without_edges, REWIRED: rewired}
"""Graphs with other edges, by name: functions of the graphs and of ``seed``."""


def rewire(pairs: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Exchange ends of random pairs of edges (Maslov and Sneppen 2002), so that all nodes keep their number of edges.

    Args:
        pairs: Different nodes that are connected, int64 (e, 2), each edge once.
        rng: What edges are chosen with.

    Exchanges that would connect a node with itself, or two nodes twice, are not made. Many edges are exchanged at once:
    of exchanges that give the same edge none is made.
    """
    count = int(pairs.max(initial=0)) + 1
    found = once(pairs)
    half = len(found) // 2
    for _ in range(ROUNDS if half else 0):
        order = rng.permutation(len(found))
        first, second = found[order[:half]], found[order[half : 2 * half]]
        # Either end of the second edge may take the place of the first one's end.
        turned = np.where(rng.random(half)[:, None] < 0.5, second, second[:, ::-1])
        new = np.stack([np.stack([first[:, 0], turned[:, 1]], 1), np.stack([turned[:, 0], first[:, 1]], 1)], 1)
        codes = _codes(new, count)
        unlike = (new[..., 0] != new[..., 1]).all(1)
        _, where, times = np.unique(codes, return_inverse=True, return_counts=True)
        single = (times[where.reshape(codes.shape)] == 1).all(1)
        taken = np.isin(codes, _codes(found, count)).any(1)
        good = unlike & single & ~taken
        found[order[:half][good]], found[order[half : 2 * half][good]] = new[good, 0], new[good, 1]
    return once(found)


def _codes(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """A number (…,) for each pair (…, 2), whatever the order of its nodes."""
    return pairs.min(-1) * count + pairs.max(-1)
