"""Result of an evaluation: a record, a table of metrics, and the evaluated items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from histomake.evaluate.items import Items

ROW_SCHEMA = pa.schema(
    [
        ("level", pa.string()),
        ("class", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("se", pa.float64()),
        ("samples", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Evaluation:
    """record: nested plain values for JSON; rows: one metric each; items: by level, for figures."""

    record: dict[str, Any]
    rows: list[dict[str, Any]]
    items: dict[str, Items]
    classes: list[str]

    def table(self) -> pa.Table:
        """The rows: level, class, metric, value, low, high, se, samples."""
        return pa.Table.from_pylist(self.rows, schema=ROW_SCHEMA)
