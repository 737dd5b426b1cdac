"""Files of graphs: one per slide, an Arrow IPC file with a row per node, as those of features.

Columns: ``node_id``; ``x``, ``y`` (float32, centre in level-0 pixels); ``neighbours`` and ``lengths_um``, lists of the
rows of the connected nodes that come later and of the lengths of these edges, so that each edge is in the file once;
and a column of vectors per group of features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from histomake.base.graph_files import LINKS
from histomake.base.records.graph import GraphRecord
from histomake.base.records.record import Quarantined
from histomake.base.vector_files import first_columns, map_table, vectors_in, whole, write_vectors
from histomake.patch.table import METADATA_KEY

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLACES = (("node_id", pa.uint32()), ("x", pa.float32()), ("y", pa.float32()))


@dataclass(frozen=True)
class StoredGraph:
    """The graph of one slide; of a slide in quarantine without nodes, with the quarantine entry as its record."""

    record: GraphRecord | Quarantined
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def places(self) -> NDArray[np.float32]:
        """Centres float32 (n, 2) in level-0 pixels."""
        return np.stack([self.table["x"].to_numpy(), self.table["y"].to_numpy()], axis=1)

    def vectors(self, group: str) -> NDArray[np.floating]:
        """Features (n, d) of a group."""
        return vectors_in(self.table[group])

    def features(self) -> NDArray[np.float32]:
        """Features float32 (n, d) of all groups, in the order of the record."""
        if isinstance(self.record, Quarantined) or not len(self):
            return np.zeros((0, 0), np.float32)
        return np.concatenate([self.vectors(group.name).astype(np.float32) for group in self.record.groups], axis=1)

    def edges(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Pairs of rows int64 (e, 2), each edge once with the smaller row first, and lengths float32 (e,) in µm."""
        if not len(self):
            return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
        lists, length = (whole(self.table[name]) for name in LINKS)
        first = np.repeat(np.arange(len(self)), lists.value_lengths().to_numpy())
        return np.stack([first, lists.flatten().to_numpy()], axis=1).astype(np.int64), length.flatten().to_numpy()


def write_graph(
    path: Path,
    record: GraphRecord | Quarantined,
    places: tuple[NDArray[np.uint32], NDArray[np.float64], NDArray[np.float64]],
    edges: tuple[NDArray[np.int64], NDArray[np.float32]],
    vectors: Mapping[str, NDArray[np.floating]],
) -> None:
    """Write a graph atomically.

    Args:
        path: The file.
        record: Its record, or the quarantine entry of the slide.
        places: ids, x and y of the n nodes.
        edges: Pairs (e, 2) of rows as of `histomake.graphs.edges.once`, and their lengths in µm.
        vectors: Features (n, d) float16 or float32 by group.
    """
    pairs, length = edges
    offsets = pa.array(np.searchsorted(pairs[:, 0], np.arange(len(places[0]) + 1)).astype(np.int32))
    links = (pa.array(pairs[:, 1], pa.int32()), pa.array(length, pa.float32()))
    columns = first_columns(PLACES, places)
    columns |= {name: pa.ListArray.from_arrays(offsets, values) for name, values in zip(LINKS, links, strict=True)}
    write_vectors(path, columns, vectors, {METADATA_KEY: record.encode(path)})


def read_graph(path: Path | str) -> StoredGraph:
    """Map a graph into memory. Raises HistomakeError if the file is damaged."""
    table = map_table(path, "a graph")
    return StoredGraph(GraphRecord.decode((table.schema.metadata or {}).get(METADATA_KEY, b"{}"), path), table)
