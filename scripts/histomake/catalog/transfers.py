"""Tables of the catalog with the measures of stain transfers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from histomake.base.records.transfer_measures import TransferMeasures

Row = dict[str, object]

PLACE = [("transfer", pa.string()), ("direction", pa.string())]
STRUCTURE = {
    "patches": pa.int64(),
    "area_mm2": pa.float64(),
    "haematoxylin_correlation": pa.float64(),
    "nuclei": pa.int64(),
    "seam_ratio": pa.float64(),
    "glass_change": pa.float64(),
}
MATCH = {"nuclei": pa.int64(), "dice": pa.float64(), "invented": pa.int64(), "lost": pa.int64()}
WAYS = ("transfer", "reinhard", "macenko")
SHARES = ("invented_per_mm2", "invented_share", "lost_share")
COMPARED = ("invented", "lost")
ENDS = [f"{name}_{end}" for name in COMPARED for end in ("low", "high")]

SCHEMAS = {
    "transfers": pa.schema(
        [*PLACE, ("stain", pa.string()), ("wanted_stain", pa.string()), ("weights_sha256", pa.string())]
        + [(name, pa.int64()) for name in ("held_out_slides", "real_slides")]
        + [(name, pa.float64()) for name in (*SHARES, *ENDS, "cycle_ssim", "cycle_l1")]
        + [("flags", pa.int64())]
    ),
    "transfer_realism": pa.schema(
        [*PLACE, ("patches_of", pa.string()), ("images", pa.int64())]
        + [(name, pa.float64()) for name in ("kid", "kid_low", "kid_high", "fid")]
        + [("drawn", pa.string())]
    ),
    "transfer_structures": pa.schema(
        [*PLACE, ("slide_id", pa.string()), *STRUCTURE.items()]
        + [(f"{way}_{name}", kind) for way in WAYS for name, kind in MATCH.items()]
    ),
}
"""Columns of the tables. ``patches_of``: a row of the measures of realism."""


def transfer_tables(measures: Sequence[Path | str]) -> dict[str, pa.Table]:
    """The tables by name; none without stain transfers."""
    if not measures:
        return {}
    records = list(map(TransferMeasures.read, measures))
    rows = {"transfers": _measures, "transfer_realism": _realism, "transfer_structures": _structures}
    return {
        name: pa.Table.from_pylist([row for record in records for row in rows[name](record)], schema)
        for name, schema in SCHEMAS.items()
    }


def _measures(record: TransferMeasures) -> Iterator[Row]:
    stain, wanted = record.stains
    slides, real = record.slides
    row = _place(record) | {"stain": stain, "wanted_stain": wanted, "weights_sha256": record.weights_sha256}
    row |= {"held_out_slides": len(slides), "real_slides": len(real)} | {name: getattr(record, name) for name in SHARES}
    ends = [end for name in COMPARED for end in getattr(record, f"{name}_interval") or (None, None)]
    row |= dict(zip(ENDS, ends, strict=True))
    cycle = record.cycle
    row |= {f"cycle_{name}": None if cycle is None else getattr(cycle, name) for name in ("ssim", "l1")}
    yield row | {"flags": len(record.flags)}


def _realism(record: TransferMeasures) -> Iterator[Row]:
    for name, found in record.realism.items():
        low, high = found.kid_interval or (None, None)
        distances = {"kid": found.kid, "kid_low": low, "kid_high": high, "fid": found.fid}
        yield _place(record) | {"patches_of": name, "images": found.images, "drawn": found.drawn} | distances


def _structures(record: TransferMeasures) -> Iterator[Row]:
    for found in record.structures:
        row = _place(record) | {"slide_id": found.slide_id} | {name: getattr(found, name) for name in STRUCTURE}
        for way in WAYS:
            match = getattr(found, way)
            row |= {f"{way}_{name}": None if match is None else getattr(match, name) for name in MATCH}
        yield row


def _place(record: TransferMeasures) -> Row:
    return {"transfer": record.transfer, "direction": record.direction}
