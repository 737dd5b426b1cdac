"""Which nodes of a graph are connected.

Every function takes positions float64 (n, 2) in µm and returns pairs int64 (e, 2) of different nodes, each edge once.
The edges do not depend on the order of the nodes, on translation or on rotation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import Delaunay, KDTree, QhullError

from histomake.base.errors import HistomakeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIE = 1e-6
"""Distances that differ by less than this share are equal: those of nodes on a lattice, after rounding."""

MOST_PER_NODE = 500
"""Edges per node, on average, from which a radius is refused."""


def nearest(places: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Pairs of each node and its ``k`` nearest, with all others that are as near as the last of them."""
    count = len(places)
    if count < 2:
        return np.zeros((0, 2), np.int64)
    tree, wanted, asked = KDTree(places), min(k + 1, count), min(k + 3, count)
    rows = np.arange(count)
    pairs: list[NDArray[np.int64]] = []
    while len(rows):
        distance, found = tree.query(places[rows], asked)
        limit = distance[:, wanted - 1] * (1 + TIE)
        # Where the last of the found nodes is still as near, there may be more of them.
        open_ended = (distance[:, -1] <= limit) & (asked < count)
        near = (distance <= limit[:, None]) & ~open_ended[:, None]
        at, column = np.nonzero(near)
        pairs.append(np.stack([rows[at], found[at, column]], axis=1))
        rows, asked = rows[open_ended], min(2 * asked, count)
    return once(np.concatenate(pairs))


def within(places: NDArray[np.float64], radius: float) -> NDArray[np.int64]:
    """Pairs of nodes at most ``radius`` apart. Raises HistomakeError if these are too many to compute with."""
    if len(places) < 2:
        return np.zeros((0, 2), np.int64)
    tree = KDTree(places)
    count = (int(tree.count_neighbors(tree, radius)) - len(places)) // 2
    if count > MOST_PER_NODE * len(places):
        raise HistomakeError(
            f"edges radius: {count:,} pairs of {len(places):,} nodes are within {radius:g} µm; lower max_edge_um, or "
            "use edges knn"
        )
    return once(tree.query_pairs(radius, output_type="ndarray").astype(np.int64))


def triangulated(places: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pairs of neighbours of the Delaunay triangulation; of nodes on a line, neighbours along it."""
    distinct, first = np.unique(places, axis=0, return_index=True)
    if len(distinct) < 2:
        return np.zeros((0, 2), np.int64)
    try:
        corners = Delaunay(distinct).simplices if len(distinct) > 2 else None
    except QhullError:
        corners = None
    if corners is None:
        # Nodes on a line, which np.unique has sorted along it.
        return once(np.stack([first[:-1], first[1:]], axis=1))
    pairs = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])
    return once(first[pairs])


def once(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each pair of different nodes once, the smaller one first, in ascending order."""
    pairs = pairs[pairs[:, 0] != pairs[:, 1]].astype(np.int64)
    # Pairs as single numbers are sorted many times faster than rows.
    base = int(pairs.max(initial=0)) + 1
    codes = np.sort(pairs.min(axis=1) * base + pairs.max(axis=1))
    codes = codes[np.append(True, codes[1:] != codes[:-1])] if len(codes) else codes
    return np.stack([codes // base, codes % base], axis=1)


def lengths(places: NDArray[np.float64], pairs: NDArray[np.int64]) -> NDArray[np.float32]:
    """Distance float32 (e,) of the nodes of each pair."""
    return np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1).astype(np.float32)
