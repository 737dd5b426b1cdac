"""Tables of the catalog with the metrics of all tasks, and of the subgroups of their test sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pyarrow as pa

from histomake.base.records.metrics import MetricsRecord, MetricValue

Row = dict[str, object]

VALUE = [(name, pa.float64()) for name in ("value", "low", "high", "se")] + [("samples", pa.int64())]

SCHEMAS = {
    "metrics": pa.schema([(name, pa.string()) for name in ("task", "level", "class", "metric")] + VALUE),
    "subgroups": pa.schema(
        [(name, pa.string()) for name in ("task", "level", "sheet_column", "subgroup")]
        + [("items", pa.int64()), ("patients", pa.int64()), ("metric", pa.string()), *VALUE]
    ),
    "subgroup_tests": pa.schema(
        [(name, pa.string()) for name in ("task", "level", "sheet_column", "metric")]
        + [("q", pa.float64()), ("degrees", pa.int64()), ("p", pa.float64()), ("i_squared", pa.float64())]
        + [("undefined", pa.string())]
    ),
}
"""Columns of the tables. The subgroup of items with an empty cell is an empty text."""


def metric_tables(metrics: Mapping[str, Path | str]) -> dict[str, pa.Table]:
    """The tables by name; ``metrics``: metrics record by task."""
    records = {task: MetricsRecord.read(path) for task, path in metrics.items()}
    rows = {"metrics": _metrics, "subgroups": _subgroups, "subgroup_tests": _tests}
    return {
        name: pa.Table.from_pylist([row for task, record in records.items() for row in of(task, record)], schema)
        for name, schema in SCHEMAS.items()
        for of in [rows[name]]
    }


def _metrics(task: str, record: MetricsRecord) -> Iterator[Row]:
    for level, found in record.levels.items():
        for class_name, of_class in found.metrics.items():
            for metric, value in of_class.items():
                yield {"task": task, "level": level, "class": class_name, "metric": metric, **_value(value)}


def _subgroups(task: str, record: MetricsRecord) -> Iterator[Row]:
    for level, found in record.levels.items():
        for column, table in found.subgroups.items():
            for subgroup, group in table.groups.items():
                place = {"task": task, "level": level, "sheet_column": column, "subgroup": subgroup}
                counts = {"items": group.count, "patients": group.patients}
                for metric, value in group.metrics.items():
                    yield {**place, **counts, "metric": metric, **_value(value)}


def _tests(task: str, record: MetricsRecord) -> Iterator[Row]:
    for level, found in record.levels.items():
        for column, table in found.subgroups.items():
            for metric, test in table.tests.items():
                place = {"task": task, "level": level, "sheet_column": column, "metric": metric}
                keys = ("q", "degrees", "p", "i_squared", "undefined")
                yield {**place, **{key: getattr(test, key) for key in keys}}


def _value(found: MetricValue) -> Row:
    return msgspec.structs.asdict(found)
