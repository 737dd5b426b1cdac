"""Reading of patch tables, which hold one row per grid cell of a slide.

Whatever only reads tables, such as training, imports this module and so does not depend on the code that makes them,
`histomake.patch.tabulate`, and on the detection of tissue.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

KEPT = ""
REASONS = (KEPT, "edge", "background", "outside_roi", "pen", "fold", "blur")
"""Values of ``excluded``; of several that apply, the first in this order is stored."""

METADATA_KEY = b"histomake"
"""Key of the table's metadata, a JSON object, in the metadata of the Parquet schema."""


def read_table(path: Path | str) -> tuple[pa.Table, dict[str, Any]]:
    """Read a patch table and its metadata: slide_id, sha256, width, height, mpp, grid, grid_name, status."""
    table = pq.read_table(path)
    return table, json.loads(table.schema.metadata[METADATA_KEY])
