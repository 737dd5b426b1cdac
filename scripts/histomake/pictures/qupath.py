"""Export of patch predictions to QuPath: tiles with a class and measurements, in GeoJSON."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from histomake.base.files import atomic_file
from histomake.patch.grid import SlideGrid
from histomake.pictures import canvas
from histomake.target.targets import JOINER


def write_tiles(
    path: Path | str,
    predictions: pa.Table,
    *,
    slide_id: str,
    classes: Sequence[str],
    slide_grid: SlideGrid | None,
) -> None:
    """Write every predicted patch as a QuPath tile object: its square, predicted class or classes, and scores.

    Scores, true values if they are known, attention and contributions become measurements. Squares are clipped at the
    border of the slide. A quarantined slide has no grid (None) and no predictions, and gives an empty collection.
    """
    write_objects(path, _features(predictions, slide_id, classes, slide_grid))


def write_objects(path: Path | str, features: Iterable[Mapping[str, object]]) -> None:
    """Write a GeoJSON collection atomically, one feature after the other, so that memory does not grow with them."""
    with atomic_file(path) as aside, aside.open("w") as stream:
        stream.write('{"type":"FeatureCollection","features":[')
        for i, feature in enumerate(features):
            stream.write(",\n" if i else "\n")
            # As a whole: to write piece by piece, the library encodes in Python, which takes five times as long.
            stream.write(json.dumps(feature, separators=(",", ":")))
        stream.write("\n]}\n")


def _features(
    predictions: pa.Table, slide_id: str, classes: Sequence[str], slide_grid: SlideGrid | None
) -> Iterator[Mapping[str, object]]:
    if slide_grid is None:
        return
    colours = canvas.class_colours(classes)
    span, width, height = slide_grid.span, slide_grid.width, slide_grid.height
    for batch in predictions.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            left, top = row["x"], row["y"]
            right, bottom = min(left + span, width), min(top + span, height)
            ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
            names = [name for name in (row["predicted"] or "").split(JOINER) if name]
            properties: dict[str, object] = {"objectType": "tile", "isLocked": True}
            if names:
                # QuPath writes several classes of one object as one name, separated by ": ".
                properties["classification"] = {"name": ": ".join(names), "color": list(colours[names[0]])}
            measured = {f"score: {c}": row[f"score_{c}"] for c in classes}
            measured |= {f"true: {n.removeprefix('target_')}": v for n, v in row.items() if n.startswith("target_")}
            measured |= {name: row.get(name) for name in ("attention", "percentile")}
            measured |= {f"contribution: {c}": row.get(f"contribution_{c}") for c in classes}
            kept = {name: round(float(value), 5) for name, value in measured.items() if value is not None}
            properties["measurements"] = kept | {"patch_id": row["patch_id"]}
            yield {
                "type": "Feature",
                "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{slide_id}/{row['patch_id']}")),
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": properties,
            }
