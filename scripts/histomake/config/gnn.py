"""Keys of tasks on graphs: the network, and what such a task cannot have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field

from histomake.config.bags import Bag, BagPooling, Width
from histomake.config.probes import LOOP, ignored_train_keys
from histomake.config.section import Section, Share

GRAPH_TRAIN_KEYS = (*LOOP, "select", "balance", "loss", "intervals", "accumulate", "precision", "checkpoint_minutes")
"""Keys of train that a task on graphs has."""

FUSED = ("attention", "gated")
"""Poolings whose bag representation can be put beside that of a graph."""


class Gnn(Section):
    """The network of a task on graphs."""

    name: Literal["sagpool", "gcn", "gin", "gat", "graphsage"] = Field(
        "sagpool",
        description="sagpool: GraphConv with the mean of the neighbours, and after every second layer but the last one "
        "SAGPooling, which keeps the nodes of the highest scores (Lee et al. 2019). gcn: Kipf and Welling 2017; gin: "
        "Xu et al. 2019; gat: Veličković et al. 2018, one head; graphsage: Hamilton et al. 2017.",
    )
    layers: int = Field(3, ge=1, le=20, description="Number of graph convolutions.")
    hidden: Width = Field(64, description="Width of each of them, and of the layer before the outputs.")
    readout: Literal["mean", "sum", "max"] = Field(
        "mean", description="How the nodes of a graph become one vector. A sum grows with the number of nodes."
    )
    jump: Literal["cat", "last"] = Field(
        "cat",
        description="Layers whose readouts represent the graph. cat: all, one after another (Xu et al. 2018); last.",
    )
    ratio: float = Field(0.5, gt=0, le=1, description="Share of the nodes that each SAGPooling keeps.")
    min_score: Share | None = Field(
        None,
        description="Score above which SAGPooling keeps a node, instead of ratio. Scores are then a softmax over the "
        "nodes of a graph, so that they sum to 1: of n nodes with equal scores, each has 1/n.",
    )
    dropout: Share = Field(0.5, description="Dropout before the outputs.")


def gnn_problems(
    gnn: Gnn, *, fuse: str | None, bag: Bag, pooling: BagPooling, train: Section, unused: Mapping[str, Section]
) -> Iterator[str]:
    """Yield settings of a task on graphs that it ignores or cannot have.

    ``unused``: sections of the task that no task on graphs uses.
    """
    for name, section in unused.items():
        if section != type(section)():
            yield f"{name}: a task on graphs has no {name}; use gnn"
    yield from ignored_train_keys(train, GRAPH_TRAIN_KEYS, "a task on graphs")
    if bag != Bag():
        yield "bag: a task on graphs learns from all nodes; remove bag"
    if fuse is None and pooling != BagPooling():
        yield "pooling: only with fuse: mil; remove pooling"
    if fuse is not None and pooling.name not in FUSED:
        yield f"pooling.name: fuse: {fuse} needs {' or '.join(FUSED)}"
    if fuse is not None and pooling.classifier:
        yield f"pooling.classifier: with fuse: {fuse} the layers of gnn classify; remove the key"
    usual = Gnn()
    if gnn.name != "sagpool" and (gnn.ratio, gnn.min_score) != (usual.ratio, usual.min_score):
        yield f"gnn.ratio and gnn.min_score: {gnn.name} drops no nodes; remove the keys"
    if gnn.min_score is not None and gnn.ratio != usual.ratio:
        yield "gnn.ratio: min_score takes its place; remove one of them"
