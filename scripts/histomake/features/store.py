"""Files of features: one per slide, with a row for every kept patch in the order of its patch table.

The format is an Arrow IPC file of one record batch: columns ``patch_id``, ``x``, ``y`` (level-0 px) and one of vectors
per encoder. Values are neither compressed nor encoded, so that a file is memory-mapped and any rows are read at the
speed of the disk. Of the containers that were measured (`make bench BENCH=features`), only this one has the vectors,
the keys to join them by and a typed header in one file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from histomake.base.errors import HistomakeError
from histomake.base.records.features import FeatureColumn, FeatureRecord, column_name
from histomake.base.records.record import Quarantined
from histomake.base.vector_files import NONE_MISSING, first_columns, map_table, vectors_in, write_vectors
from histomake.patch.table import METADATA_KEY

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLACES = (("patch_id", pa.uint32()), ("x", pa.int32()), ("y", pa.int32()))
"""Columns before those of the vectors."""

STAGE = "features"
"""Stage of the quarantine entry of a slide whose damage was met while its patches were encoded."""


@dataclass(frozen=True)
class Features:
    """The features of one slide; vectors are views of the mapped file.

    record: of the file, or the quarantine entry of the slide, whose file has no rows.
    table: ``patch_id``, ``x``, ``y``, and a column of lists per encoder.
    """

    record: FeatureRecord | Quarantined
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def met_damage(self) -> Quarantined | None:
        """The quarantine entry of a slide that was quarantined here, while its patches were read."""
        if isinstance(self.record, Quarantined) and self.record.stage == STAGE:
            return self.record
        return None

    @property
    def patch_id(self) -> NDArray[np.uint32]:
        """Patches of the rows, ascending."""
        return self.table["patch_id"].to_numpy()

    def vectors(self, column: str) -> NDArray[np.floating]:
        """Vectors (n, d) of a column, without a copy. Raises HistomakeError if there is no such column."""
        names = self.table.column_names[len(PLACES) :]
        if column not in names:
            raise HistomakeError(
                f"the file of features has no vectors {column}, only {', '.join(names)}; run the workflow again"
            )
        return vectors_in(self.table[column])

    def given(self, column: str) -> NDArray[np.bool_]:
        """Which rows have a vector in a column, (n,): all of them, unless patches were chosen."""
        return self.table[column].is_valid().to_numpy()

    def column(self, name: str) -> FeatureColumn | None:
        """What the file says of a column; None for a slide in quarantine."""
        if isinstance(self.record, Quarantined):
            return None
        return next((column for key, column in columns_of(self.record).items() if key == name), None)

    def joinable(self) -> pa.Table:
        """The table with lists of float32, which DuckDB can read: it has no type of 16 bits."""
        types = {name: self.table.schema.field(name).type for name in self.table.column_names}
        wide = {
            name: pa.list_(pa.float32(), kind.list_size) for name, kind in types.items() if hasattr(kind, "list_size")
        }
        fields = [pa.field(name, wide.get(name, kind)) for name, kind in types.items()]
        columns = [
            _widened(self.vectors(name), self.given(name), wide[name]) if name in wide else self.table[name]
            for name in self.table.column_names
        ]
        return pa.table(columns, schema=pa.schema(fields))


def _widened(vectors: NDArray[np.floating], given: NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    values = pa.array(vectors.astype(np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=pa.array(~given))


def columns_of(record: FeatureRecord) -> dict[str, FeatureColumn]:
    """The columns that a record describes, by name."""
    return {column_name(column.encoder, column.fold): column for column in record.columns}


def write_features(
    path: Path,
    record: FeatureRecord | Quarantined,
    places: Mapping[str, NDArray[Any]],
    vectors: Mapping[str, NDArray[np.floating]],
    given: Mapping[str, NDArray[np.bool_]] = NONE_MISSING,
) -> None:
    """Write the features of a slide atomically.

    Args:
        path: The file.
        record: Its record, or the quarantine entry of the slide.
        places: patch_id, x and y, each (n,).
        vectors: Vectors (n, d) float16 or float32 by name of the column.
        given: Which rows have a vector, bool (n,), by name of the columns in which not all have.
    """
    columns = first_columns(PLACES, [places[name] for name, _ in PLACES])
    write_vectors(path, columns, vectors, {METADATA_KEY: record.encode(path)}, given)


def read_features(path: Path | str) -> Features:
    """Map the features of a slide into memory. Raises HistomakeError if the file is damaged."""
    table = map_table(path, "a file of features")
    return Features(FeatureRecord.decode((table.schema.metadata or {}).get(METADATA_KEY, b"{}"), path), table)


def rows_of(features: Features, patch_id: NDArray[np.uint32], *, path: Path | str) -> NDArray[np.int64]:
    """Rows of patches in a file of features. Raises HistomakeError if one is missing: the patch table changed since."""
    known = features.patch_id
    rows = np.searchsorted(known, patch_id)
    if len(rows) and (not len(known) or (known[np.minimum(rows, len(known) - 1)] != patch_id).any()):
        raise HistomakeError(f"{path} lacks patches of the patch table; delete it and run the workflow again")
    return rows
