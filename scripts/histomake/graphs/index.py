"""The graphs of a set of slides as bags of nodes: which nodes, edges and target each of them has."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from histomake.bags.index import BagIndex, gather_bags
from histomake.base.errors import HistomakeError
from histomake.base.records.graph import GraphRecord
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.record import Quarantined
from histomake.base.units import Mpp, PatchPixels
from histomake.config import Target
from histomake.graphs.batch import GraphBatch
from histomake.graphs.store import StoredGraph, read_graph
from histomake.learn.data.patch_index import PatchIndex, SlideEntry
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table
from histomake.target.kinds import patch_targets

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.base.kinds import Kind

log = logging.getLogger(__name__)

Links = Mapping[str, "NDArray[np.int64]"]
"""Pairs (e, 2) of connected nodes by name of the bag, as numbers of the nodes in the bag; each edge once."""


class NodeVectors:
    """Features of nodes, read from the files of graphs.

    Args:
        patches: The nodes, all of each slide and in the order of its graph.
        graphs: Graph of each slide, by its position in the entries.

    Raises HistomakeError if graphs have other features or were made with other settings.
    """

    def __init__(self, patches: PatchIndex, graphs: Mapping[int, StoredGraph]) -> None:
        self.patches, self.graphs = patches, graphs
        self.record = self._common_record()
        starts = np.searchsorted(patches.slide, np.arange(len(patches.entries)))
        self.rows = np.arange(len(patches)) - starts[patches.slide]

    def _common_record(self) -> GraphRecord:
        records = {place: graph.record for place, graph in self.graphs.items()}
        known = {place: record for place, record in records.items() if isinstance(record, GraphRecord)}
        first = next(iter(known.values()))
        for place, record in known.items():
            if record.identity != first.identity:
                raise HistomakeError(
                    f"slide {self.patches.entries[place].slide_id} has a graph of other settings or another encoder "
                    f"than slide {first.slide_id}; run the workflow again"
                )
        return first

    def require_same(self, other: NodeVectors) -> None:
        """Raise HistomakeError if graphs of validation slides were made with other settings or features than these."""
        if other.record.identity != self.record.identity:
            raise HistomakeError("graphs of validation slides are of other settings; run the workflow again")

    @property
    def width(self) -> int:
        """Numbers per node."""
        return sum(len(group.values) for group in self.record.groups)

    def read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features float32 (n, d) of the nodes at ``index``, in its order."""
        found = np.empty((len(index), self.width), np.float32)
        slides, start = self.patches.slide[index], 0
        for group in self.record.groups:
            stop = start + len(group.values)
            for slide in np.unique(slides):
                slots = np.flatnonzero(slides == slide)
                found[slots, start:stop] = self.graphs[int(slide)].vectors(group.name)[self.rows[index[slots]]]
            start = stop
        return found


@dataclass(frozen=True)
class GraphIndex(BagIndex):
    """Slides or patients as bags of the nodes of their graphs; ``links``: their edges."""

    links: Links

    @property
    def nodes(self) -> NodeVectors:
        """The features of the nodes."""
        assert isinstance(self.reader, NodeVectors)
        return self.reader

    def batch(self, bags: Sequence[int]) -> GraphBatch:
        """The graphs of some of the bags, with unscaled features."""
        features = [torch.from_numpy(self.reader.read(self.members[bag])) for bag in bags]
        return GraphBatch.of(features, [torch.from_numpy(self.links[self.names[bag]]) for bag in bags])


def index_graphs(
    entries: Sequence[SlideEntry], files: Mapping[str, Path], *, kind: Kind, target: Target, level: str
) -> GraphIndex:
    """The graphs of slides, or of the slides of patients together, which have no edge between them.

    Args:
        entries: The slides.
        files: Graph of each slide, by id.
        kind: Kind of the task.
        target: Its target, from the sheet.
        level: "slide" or "patient".

    Raises HistomakeError if no slide has a node.
    """
    graphs = {place: read_graph(files[entry.slide_id]) for place, entry in enumerate(entries)}
    for place, graph in graphs.items():
        if not len(graph):
            log.warning("%s", _why_none(entries[place], graph))
    graphs = {place: graph for place, graph in graphs.items() if len(graph)}
    if not graphs:
        raise HistomakeError(f"no slide has a graph with nodes ({', '.join(e.slide_id for e in entries)})")
    nodes = _nodes(entries, graphs, kind, target)
    bags = gather_bags(nodes, lambda kept: NodeVectors(kept, graphs), level=level, min_tissue=0)
    return GraphIndex(bags.reader, bags.names, bags.members, _links(bags, graphs))


def _why_none(entry: SlideEntry, graph: StoredGraph) -> str:
    if isinstance(graph.record, Quarantined):
        return f"slide {entry.slide_id} has no graph ({graph.record.reason}: {graph.record.detail})"
    return f"slide {entry.slide_id} has a graph without nodes, and takes no part"


def _nodes(entries: Sequence[SlideEntry], graphs: Mapping[int, StoredGraph], kind: Kind, target: Target) -> PatchIndex:
    """The nodes as patches of the task's grid, each in the middle of one."""
    grids: set[tuple[PatchPixels, Mpp, PatchPixels]] = set()
    parts: list[tuple[NDArray[np.generic], ...]] = []
    for place, graph in graphs.items():
        entry, count = entries[place], len(graph)
        _, record = read_table(entry.table)
        assert isinstance(record, PatchTableRecord)
        slide_grid = SlideGrid.of_table(record)
        grids.add((slide_grid.grid.size, slide_grid.grid.mpp, slide_grid.grid.stride or slide_grid.grid.size))
        corner = np.rint(graph.places() - slide_grid.span / 2).astype(np.int32)
        ids = graph.table["node_id"]
        known = patch_targets(
            pa.table({"node_id": ids}), kind, target, labels=entry.labels, annotated=False, slide_id=entry.slide_id
        )
        slide = np.full(count, place, np.int32)
        parts.append((slide, ids.to_numpy(), corner[:, 0], corner[:, 1], np.ones(count, np.float32), known))
    if len(grids) > 1:
        raise HistomakeError(f"patch tables of different grids were mixed (size, mpp, stride): {sorted(grids)}")
    size, mpp, stride = grids.pop()
    slide, node_id, x, y, share, of_nodes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return PatchIndex(tuple(entries), slide, node_id, x, y, share, of_nodes, size, mpp, stride)


def _links(bags: BagIndex, graphs: Mapping[int, StoredGraph]) -> dict[str, NDArray[np.int64]]:
    found = {}
    for name, members in zip(bags.names, bags.members, strict=True):
        slides, starts = np.unique(bags.patches.slide[members], return_index=True)
        pairs = [graphs[int(slide)].edges()[0] + start for slide, start in zip(slides, starts, strict=True)]
        found[name] = np.concatenate(pairs)
    return found
