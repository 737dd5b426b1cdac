"""Graphs that differ in the arrangement of their nodes alone: as many of either class, clustered or dispersed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from histomake.base.records.graph import FeatureGroup, GraphRecord
from histomake.config import Graph
from histomake.graphs.edges import lengths, nearest
from histomake.graphs.store import write_graph

CLASSES = ("round", "long")


def arranged(rng: np.random.Generator, *, nodes: int, extent: float, clustered: bool) -> tuple[np.ndarray, np.ndarray]:
    """Places float64 (nodes, 2) in [0, extent), and classes int64 (nodes,), half of each.

    Clustered: the second class is what is nearest to one of a few points. Dispersed: it is any half of the nodes.
    """
    places = rng.random((nodes, 2)) * extent
    if clustered:
        centres = rng.random((4, 2)) * extent
        distance = np.linalg.norm(places[:, None] - centres[None], axis=2).min(1)
        order = np.argsort(distance)
    else:
        order = rng.permutation(nodes)
    classes = np.ones(nodes, np.int64)
    classes[order[nodes // 2 :]] = 0
    return places, classes


def write_arranged(
    path: Path, slide_id: str, rng: np.random.Generator, *, nodes: int, extent: float, clustered: bool, sha256: str
) -> None:
    """Write the graph of a slide of ``extent`` level-0 pixels, of 1 µm each."""
    places, classes = arranged(rng, nodes=nodes, extent=extent, clustered=clustered)
    pairs = nearest(places, 6)
    one_hot = (classes[:, None] == np.arange(2)).astype(np.float32)
    record = GraphRecord(
        slide_id=slide_id,
        sha256=sha256,
        mpp=1.0,
        settings=Graph(nodes="cell", cells="nuclei", features=["class"]).dump(),
        groups=[FeatureGroup(name="class", values=[f"is_{name}" for name in CLASSES])],
        identity="arranged",
        found=nodes,
    )
    ids = np.arange(nodes, dtype=np.uint32)
    write_graph(path, record, (ids, *places.T), (pairs, lengths(places, pairs)), {"class": one_hot})
