"""Owns the export of patch predictions to QuPath: tiles with a class and measurements, in GeoJSON."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from histomake import figures
from histomake.files import atomic_file


def write_tiles(
    path: Path | str,
    predictions: pa.Table,
    *,
    slide_id: str,
    classes: Sequence[str],
    span: float,
    width: int,
    height: int,
) -> None:
    """Write every predicted patch as a QuPath tile object: its square, its predicted class, one measurement per score.

    ``span``: edge of a patch in level-0 pixels; squares are cut at the slide's border (``width``, ``height``). A slide
    without predictions gives an empty collection. Written feature by feature, so that memory does not grow with it.
    """
    with atomic_file(path) as aside, aside.open("w") as stream:
        stream.write('{"type":"FeatureCollection","features":[')
        for i, feature in enumerate(_features(predictions, slide_id, classes, span, width, height)):
            stream.write(",\n" if i else "\n")
            json.dump(feature, stream, separators=(",", ":"))
        stream.write("\n]}\n")


def _features(
    predictions: pa.Table, slide_id: str, classes: Sequence[str], span: float, width: int, height: int
) -> Iterator[dict[str, Any]]:
    colours = figures.class_colours(classes)
    for batch in predictions.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            left, top = row["x"], row["y"]
            right, bottom = min(left + span, width), min(top + span, height)
            ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
            name = row["predicted"]
            properties: dict[str, Any] = {"objectType": "tile", "isLocked": True}
            if name is not None:
                properties["classification"] = {"name": name, "color": list(colours[name])}
            scores = {f"score: {c}": round(float(row[f"score_{c}"]), 5) for c in classes}
            properties["measurements"] = scores | {"patch_id": row["patch_id"]}
            yield {
                "type": "Feature",
                "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{slide_id}/{row['patch_id']}")),
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": properties,
            }
