"""Graphs in the viewer: edges, and nodes by class or by what they contribute, drawn as tiles like outlines."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from histomake.base.errors import HistomakeError
from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import Quarantined
from histomake.graphs.store import read_graph
from histomake.pictures.graph_views import NODE_SHARE, DrawnGraph
from histomake.target.kinds import LEARNED
from histomake.viewer import masks
from histomake.viewer.masks import MaskTiles
from histomake.viewer.outlines import Outlines, titled

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRAPH, NODES = "graph", "nodes"
"""Ends of the names of layers: of a graph by classes of its nodes, and of a task by their contributions. They follow a
dot, which names of graphs and tasks cannot contain, as in the names of other layers with a title."""

EDGE, NODE = "edge", "node"
"""Classes of edges, and of nodes that have none."""

HARDLY = 0.1
"""Share of the largest contribution below which a node is said to hardly count."""

LEAST_RADIUS = 2.0
"""Smallest radius of a node, in level-0 pixels."""

CORNERS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], float)
"""Outline of a node of radius 1."""


def named(task: str) -> bool:
    """Whether a layer is one of these."""
    return task.rpartition(".")[2] in (GRAPH, NODES)


def open_layer(layout: Layout, slide: str, task: str, fold: int) -> Outlines:
    """A layer of a slide: ``name.graph`` of a graph, or ``task.nodes`` of a task on graphs. Raises KeyError without."""
    name, _, kind = task.rpartition(".")
    manifest = Manifest.read_usable(layout.manifest(slide))
    predicted = layout.predicted_nodes(name, fold, slide) if kind == NODES else None
    card = layout.description(name, fold)
    if predicted is not None and not (predicted.is_file() and card.is_file()):
        raise KeyError(f"{name} fold {fold} has not predicted the nodes of {slide}")
    model = None if predicted is None else ModelCard.read(card)
    path = layout.graph(name if model is None else _graph_of(model), slide)
    if not path.is_file():
        raise KeyError(f"{slide} has no graph {name}")
    written = tuple(one.stat().st_mtime_ns for one in (path, predicted) if one is not None)
    return _drawn(path, predicted, card if predicted else None, written, manifest.width, manifest.height)


@lru_cache(maxsize=4)
def _drawn(
    path: Path, predicted: Path | None, card: Path | None, _written: tuple[int, ...], width: int, height: int
) -> Outlines:
    """Kept, because every tile needs it; files that are written anew are read anew."""
    graph = read_graph(path)
    if isinstance(graph.record, Quarantined) or not len(graph):
        raise KeyError(f"{path} has no node")
    drawn = DrawnGraph.of(graph)
    if predicted is None or card is None:
        names, codes = [*drawn.class_names, NODE], np.where(drawn.classes < 0, len(drawn.class_names), drawn.classes)
    else:
        names, codes = _contributing(predicted, ModelCard.read(card))
    if len(codes) != len(graph):
        raise HistomakeError(f"{predicted} has predictions of other nodes than {path}; run the workflow again")
    radius = max(NODE_SHARE * (drawn.edge_px or 0), LEAST_RADIUS)
    lines = drawn.places[drawn.pairs]
    nodes = drawn.places[:, None] + radius * CORNERS
    sizes = np.concatenate([np.full(len(lines), 2), np.full(len(nodes), len(CORNERS))])
    boxes = [np.concatenate([rings.min(1), rings.max(1)], axis=1) for rings in (lines, nodes)]
    return Outlines(
        np.concatenate([lines.reshape(-1, 2), nodes.reshape(-1, 2)]),
        np.concatenate([[0], np.cumsum(sizes)]),
        np.concatenate(boxes),
        np.concatenate([np.full(len(lines), 1), codes + 2]).astype(np.uint8),
        [EDGE, *names],
        width,
        height,
    )


def _contributing(predicted: Path, card: ModelCard) -> tuple[list[str], NDArray[np.int64]]:
    """Names of what nodes do to the last output, and which of them each node does, int64 (n,)."""
    table, last = pq.read_table(predicted), card.class_names[-1]
    value = table[f"contribution_{last}"].to_numpy().astype(np.float64)
    if len(card.class_names) == 2 and LEARNED[card.kind].exclusive:
        # Only the difference of two logits matters to the score.
        value = value - table[f"contribution_{card.class_names[0]}"].to_numpy()
    small = np.abs(value) < HARDLY * np.abs(value).max(initial=0)
    return [f"raises {last}", f"lowers {last}", "hardly counts"], np.where(small, 2, value < 0).astype(np.int64)


def _graph_of(model: ModelCard) -> str:
    if model.bag is None or model.bag.graph is None:
        raise KeyError("the task is not on graphs")
    return model.bag.graph.name


def _places(layout: Layout, slide: str) -> Iterator[tuple[str, int, str]]:
    """Name, fold and title of every layer of a slide."""
    for path in existing(layout.graph("*", slide), under=layout.results):
        yield f"{path.parent.name}.{GRAPH}", 0, f"graph: {path.parent.name}"
    for path in existing(layout.predicted_nodes("*", "*", slide), under=layout.results):
        task, fold = path.parent.parent.name, int(path.parent.name.removeprefix("fold"))
        yield f"{task}.{NODES}", fold, f"nodes: {task}, fold {fold}"


def _layers(layout: Layout, slide: str) -> Iterator[tuple[str, int, str, Outlines]]:
    for task, fold, title in _places(layout, slide):
        try:
            yield task, fold, title, open_layer(layout, slide, task, fold)
        except KeyError:  # a graph without nodes
            continue


def describe(layout: Layout, slide: str) -> list[MaskTiles]:
    """What the page needs to request the tiles of every layer of a slide."""
    return [
        titled(task, fold, title, classes=layer.classes, width=layer.width, height=layer.height)
        for task, fold, title, layer in _layers(layout, slide)
    ]


def class_order(layout: Layout, slide: str) -> list[str]:
    """All classes visible on a slide, in palette order: those of `masks.class_order`, then those of graphs."""
    names = dict.fromkeys(masks.class_order(layout, slide))
    for *_, layer in _layers(layout, slide):
        names |= dict.fromkeys(layer.classes)
    return list(names)
