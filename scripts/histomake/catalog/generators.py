"""Tables of the catalog with the measures of generators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from histomake.base.records.generator_measures import FeatureDistances, GeneratorMeasures

Row = dict[str, object]

DISTANCES = ("kid", "kid_low", "kid_high", "fid", "precision", "recall")

SCHEMAS = {
    "generators": pa.schema(
        [("generator", pa.string()), ("weights_sha256", pa.string()), ("encoder", pa.string())]
        + [(name, pa.int64()) for name in ("samples", "training_fields", "held_out_fields", "held_out_slides")]
        + [(f"{of}_{name}", pa.float64()) for of in ("made", "real") for name in DISTANCES]
        + [("copies", pa.float64()), ("memorised", pa.bool_()), ("flags", pa.int64())]
    ),
    "generator_scales": pa.schema(
        [("generator", pa.string()), ("edge", pa.int64()), ("made", pa.float64()), ("real", pa.float64())]
    ),
}
"""Columns of the tables. ``made``: of samples, ``real``: of training fields, each from held-out fields."""


def generator_tables(measures: Sequence[Path | str]) -> dict[str, pa.Table]:
    """The tables by name; none without generators."""
    if not measures:
        return {}
    records = list(map(GeneratorMeasures.read, measures))
    rows = {"generators": _measures, "generator_scales": _scales}
    return {
        name: pa.Table.from_pylist([row for record in records for row in rows[name](record)], schema)
        for name, schema in SCHEMAS.items()
    }


def _measures(record: GeneratorMeasures) -> Iterator[Row]:
    samples, training, held_out = record.images
    yield {
        "generator": record.generator,
        "weights_sha256": record.weights_sha256,
        "encoder": record.encoder,
        "samples": samples,
        "training_fields": training,
        "held_out_fields": held_out,
        "held_out_slides": len(record.slides[1]),
        **_distances("made", record.made),
        **_distances("real", record.real),
        "copies": record.memorisation.copies,
        "memorised": record.memorisation.flagged,
        "flags": len(record.flags),
    }


def _distances(of: str, found: FeatureDistances | None) -> Row:
    if found is None:
        return dict.fromkeys(f"{of}_{name}" for name in DISTANCES)
    low, high = found.kid_interval or (None, None)
    values = (found.kid, low, high, found.fid, found.precision, found.recall)
    return {f"{of}_{name}": value for name, value in zip(DISTANCES, values, strict=True)}


def _scales(record: GeneratorMeasures) -> Iterator[Row]:
    for scale in record.scales:
        yield {"generator": record.generator, "edge": scale.edge, "made": scale.made, "real": scale.real}
