"""Writing of Parquet tables, and tables of slides that have no rows because the slide is damaged."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from histomake.base.files import atomic_file
from histomake.base.records.record import Quarantined

QUARANTINE_KEY = b"quarantine"
"""Key of the quarantine entry in the metadata of a table without rows."""


def without_rows(schema: pa.Schema, lost: Quarantined) -> pa.Table:
    """The table of a damaged slide: no rows; its metadata has the quarantine entry."""
    metadata = {QUARANTINE_KEY: lost.encode("the metadata of a table")}
    return schema.empty_table().replace_schema_metadata(metadata)


def lost_slide(table: pa.Table) -> Quarantined | None:
    """The quarantine entry that `without_rows` has put into a table."""
    text = (table.schema.metadata or {}).get(QUARANTINE_KEY)
    return None if text is None else Quarantined.decode(text, "the metadata of a table")


def write_table(table: pa.Table, path: Path | str, **options: object) -> None:
    """Write a table as Parquet with Zstandard compression, atomically.

    ``options`` are further arguments of `pyarrow.parquet.write_table`.
    """
    with atomic_file(path) as aside:
        pq.write_table(table, aside, compression="zstd", **options)
