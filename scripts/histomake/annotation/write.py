"""Writer of annotations: GeoJSON that QuPath opens, a Zarr of class numbers for masks, and a JSON record."""

from __future__ import annotations

import colorsys
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import zarr

from histomake.annotation.features import format_features
from histomake.annotation.model import Annotation, LabelImage
from histomake.base.files import atomic_directory, atomic_file, write_json

CHUNK = 1024
GOLDEN_TURN = 0.381966  # consecutive class numbers get clearly different hues


def write_annotation(annotation: Annotation, *, record: Path | str, geojson: Path | str) -> dict[str, Any]:
    """Write the GeoJSON, ``{slide}.labels.zarr`` beside the record if there is a label image, and last the record.

    Returns:
        The record as written.
    """
    record_path, content = Path(record), dict(annotation.record)
    store = record_path.with_name(f"{record_path.stem}.labels.zarr")
    if annotation.label_image is not None:
        _write_labels(annotation.label_image, store)
        height, width = annotation.label_image.shape
        downsample = annotation.label_image.downsample
        content["label_image"] = {"store": store.name, "downsample": downsample, "width": width, "height": height}
    else:
        shutil.rmtree(store, ignore_errors=True)
    write_geojson(annotation, geojson)
    write_json(record_path, content)
    return content


def write_no_annotation(outcome: dict[str, Any], *, record: Path | str, geojson: Path | str) -> None:
    """Write a quarantine entry as the record, and an empty GeoJSON in place of the annotation."""
    write_geojson(Annotation((), []), geojson)
    write_json(record, outcome)


def write_geojson(annotation: Annotation, path: Path | str) -> None:
    """Write the regions as a QuPath FeatureCollection in level-0 pixels, rounded to a hundredth of a pixel."""
    properties = {
        name: {"objectType": "annotation", "classification": {"name": name, "color": _colour(i)}}
        for i, name in enumerate(annotation.class_names)
    }
    shapes = np.array([geometry for _, geometry in annotation.regions], dtype=object)
    rounded = shapely.transform(shapes, lambda points: points.round(2))
    # Rounding can make a shape invalid or empty; such a shape keeps all its digits.
    shapes = np.where(shapely.is_valid(rounded) & ~shapely.is_empty(rounded), rounded, shapes)
    with atomic_file(path) as aside:
        aside.write_text(format_features(shapes, (properties[name] for name, _ in annotation.regions)))


def _colour(index: int) -> list[int]:
    return [round(255 * c) for c in colorsys.hsv_to_rgb(index * GOLDEN_TURN % 1, 0.75, 0.9)]


def _write_labels(labels: LabelImage, store: Path) -> None:
    height, width = labels.shape
    with atomic_directory(store) as aside:
        array = zarr.create_array(aside, shape=(height, width), chunks=(CHUNK, CHUNK), dtype="uint8", overwrite=True)
        for top in range(0, height, CHUNK):
            for left in range(0, width, CHUNK):
                rows = slice(top, min(top + CHUNK, height))
                columns = slice(left, min(left + CHUNK, width))
                array[rows, columns] = labels.read(rows, columns)
