"""Atomic writing of Parquet files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from histomake.base.files import atomic_file


def write_table(table: pa.Table, path: Path | str, **options: object) -> None:
    """Write a table as Parquet with Zstandard compression, atomically.

    ``options`` are further arguments of `pyarrow.parquet.write_table`.
    """
    with atomic_file(path) as aside:
        pq.write_table(table, aside, compression="zstd", **options)
