"""Result of an evaluation: a record, a table of metrics, and the evaluated items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import pyarrow as pa

from histomake.base.records.metrics import MetricsRecord, MetricValue
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


class MetricRow(NamedTuple):
    """A metric of one level; ``class_name`` is empty for a metric over all classes."""

    level: str
    class_name: str
    metric: str
    found: MetricValue


@dataclass(frozen=True)
class Evaluation:
    """Everything that is measured.

    record: all results; rows: the same, one metric each; items: by level, for figures; slides: metrics of slides; time:
    column of the sheet that times of survival are from.
    """

    record: MetricsRecord
    rows: list[MetricRow]
    items: dict[str, Items]
    classes: list[str]
    slides: pa.Table
    time: str | None = None

    def table(self) -> pa.Table:
        """The rows: level, class, metric, value, low, high, se, samples."""
        rows = [(*names, *msgspec.structs.astuple(found)) for *names, found in self.rows]
        return pa.Table.from_pylist([dict(zip(ROW_SCHEMA.names, row, strict=True)) for row in rows], schema=ROW_SCHEMA)
