"""Reading of patch tables, which hold one row per grid cell of a slide.

Code that only reads tables, such as training, imports this module, and so depends neither on the code that makes them,
`histomake.patch.tabulate`, nor on the detection of tissue.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.record import Quarantined

KEPT = ""
REASONS = (KEPT, "too_coarse", "edge", "background", "outside_roi", "pen", "fold", "blur")
"""Values of ``excluded``; of several that apply, the first in this order is stored."""

METADATA_KEY = b"histomake"
"""Key of the table's record in the metadata of the Parquet schema."""


def read_table(path: Path | str) -> tuple[pa.Table, PatchTableRecord | Quarantined]:
    """Read a patch table and its record. The table of a slide in quarantine is empty.

    Raises RecordError where the file has no valid record.
    """
    table = pq.read_table(path)
    return table, PatchTableRecord.decode(_record(table.schema), path)


def kept_patches(path: Path | str) -> int:
    """Number of patches that are not excluded."""
    excluded = pq.read_table(path, columns=["excluded"])["excluded"].cast(pa.string())
    return int(pc.sum(pc.equal(excluded, KEPT)).as_py() or 0)


def record_text(path: Path | str) -> str:
    """The record of a patch table as JSON text, without reading the table."""
    return _record(pq.read_schema(path)).decode()


def _record(schema: pa.Schema) -> bytes:
    found: bytes = (schema.metadata or {}).get(METADATA_KEY, b"{}")
    return found
