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

from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_file
from histomake.base.records.graph import GraphRecord
from histomake.base.records.record import Quarantined
from histomake.patch.table import METADATA_KEY

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLACES = (("node_id", pa.uint32()), ("x", pa.float32()), ("y", pa.float32()))
LINKS = (("neighbours", pa.list_(pa.int32())), ("lengths_um", pa.list_(pa.float32())))


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
        found = self.table[group].combine_chunks()
        found = found.chunk(0) if isinstance(found, pa.ChunkedArray) else found
        return found.flatten().to_numpy().reshape(-1, found.type.list_size)

    def features(self) -> NDArray[np.float32]:
        """Features float32 (n, d) of all groups, in the order of the record."""
        if isinstance(self.record, Quarantined) or not len(self):
            return np.zeros((0, 0), np.float32)
        return np.concatenate([self.vectors(group.name).astype(np.float32) for group in self.record.groups], axis=1)

    def edges(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Pairs of rows int64 (e, 2), each edge once with the smaller row first, and lengths float32 (e,) in µm."""
        if not len(self):
            return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
        lists = self.table["neighbours"].combine_chunks()
        lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
        first = np.repeat(np.arange(len(self)), lists.value_lengths().to_numpy())
        length = self.table["lengths_um"].combine_chunks()
        length = length.chunk(0) if isinstance(length, pa.ChunkedArray) else length
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
    fields = [*PLACES, *LINKS, *((n, pa.list_(pa.from_numpy_dtype(v.dtype), v.shape[1])) for n, v in vectors.items())]
    schema = pa.schema(fields, metadata={METADATA_KEY: record.encode(path)})
    pairs, length = edges
    offsets = pa.array(np.searchsorted(pairs[:, 0], np.arange(len(places[0]) + 1)).astype(np.int32))
    columns = [pa.array(values, kind) for values, (_, kind) in zip(places, PLACES, strict=True)]
    columns.append(pa.ListArray.from_arrays(offsets, pa.array(pairs[:, 1], pa.int32())))
    columns.append(pa.ListArray.from_arrays(offsets, pa.array(length, pa.float32())))
    columns += [
        pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(v).ravel()), v.shape[1])
        for v in vectors.values()
    ]
    batch = pa.record_batch(columns, schema=schema)
    with atomic_file(path) as aside, pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)


def read_graph(path: Path | str) -> StoredGraph:
    """Map a graph into memory. Raises HistomakeError if the file is damaged."""
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid as error:
        raise HistomakeError(f"{path} is not a graph ({error}); delete it and run the workflow again") from error
    return StoredGraph(GraphRecord.decode((table.schema.metadata or {}).get(METADATA_KEY, b"{}"), path), table)
