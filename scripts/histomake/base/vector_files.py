"""Arrow IPC files of one record batch with columns of vectors, which are mapped into memory when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

NONE_MISSING: Mapping[str, NDArray[np.bool_]] = {}
"""For files in which every row has a vector in every column."""


def write_vectors(
    path: Path,
    columns: Mapping[str, pa.Array],
    vectors: Mapping[str, NDArray[np.floating]],
    metadata: Mapping[bytes, bytes | str],
    given: Mapping[str, NDArray[np.bool_]] = NONE_MISSING,
) -> None:
    """Write a file atomically: ``columns``, then a column of vectors (n, d) float16 or float32 by name.

    ``given``: by column, which rows have a vector (n,); the others are null.
    """
    lists = {
        name: pa.FixedSizeListArray.from_arrays(
            pa.array(np.ascontiguousarray(v).ravel()),
            v.shape[1],
            mask=pa.array(~given[name]) if name in given else None,
        )
        for name, v in vectors.items()
    }
    every = {**columns, **lists}
    schema = pa.schema([(name, array.type) for name, array in every.items()], metadata=dict(metadata))
    batch = pa.record_batch(list(every.values()), schema=schema)
    with atomic_file(path) as aside, pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)


def map_table(path: Path | str, what: str) -> pa.Table:
    """Map a file into memory. Raises HistomakeError, which says that it is not ``what``, if it is damaged."""
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid as error:
        raise HistomakeError(f"{path} is not {what} ({error}); delete it and run the workflow again") from error


def whole(column: pa.ChunkedArray) -> pa.Array:
    """The one array of a column; without a copy if it has one chunk, as in these files."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def vectors_in(column: pa.ChunkedArray) -> NDArray[np.floating]:
    """Vectors (n, d) of a column, as a view of the mapped file. Those of rows without one have no meaning."""
    found = whole(column)
    values: NDArray[np.floating] = found.values.to_numpy(zero_copy_only=True)
    return values.reshape(-1, found.type.list_size)[found.offset : found.offset + len(found)]


def first_columns(
    kinds: Sequence[tuple[str, pa.DataType]], values: Sequence[NDArray[np.generic]]
) -> dict[str, pa.Array]:
    """Arrays of given types, by name."""
    return {name: pa.array(array, kind) for (name, kind), array in zip(kinds, values, strict=True)}
