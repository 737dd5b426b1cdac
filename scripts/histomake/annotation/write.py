"""Writer of annotations: GeoJSON that QuPath opens, a Zarr of class numbers for masks, and a JSON record."""

from __future__ import annotations

import colorsys
import shutil
from pathlib import Path

import msgspec
import numpy as np
import shapely
import zarr

from histomake.annotation.features import format_features
from histomake.annotation.mask import PART_PX, parts
from histomake.annotation.model import Annotation, LabelImage
from histomake.base.files import atomic_directory, atomic_file, write_empty_store
from histomake.base.records.annotation import AnnotationRecord, LabelImageRecord
from histomake.base.records.record import Quarantined

GOLDEN_TURN = 0.381966  # consecutive class numbers get clearly different hues


def write_annotation(
    annotation: Annotation, *, record: Path | str, geojson: Path | str, labels: Path, keep_labels: bool = False
) -> AnnotationRecord:
    """Write the GeoJSON, the label image if there is one, and last the record. Returns the record as written.

    ``labels``: folder of the label image, beside the record; removed if the annotation has none, or with
    ``keep_labels`` a store without arrays.

    Raises:
        ValueError: the annotation has no record.
    """
    content = annotation.record
    if content is None:
        raise ValueError(f"{record}: the annotation has no record to write")
    if annotation.label_image is not None:
        _write_labels(annotation.label_image, labels)
        height, width = annotation.label_image.shape
        downsample = annotation.label_image.downsample
        image = LabelImageRecord(store=labels.name, downsample=downsample, width=width, height=height)
        content = msgspec.structs.replace(content, label_image=image)
    elif keep_labels:
        write_empty_store(labels, {})
    else:
        shutil.rmtree(labels, ignore_errors=True)
    write_geojson(annotation, geojson)
    content.write(record)
    return content


def write_no_annotation(
    outcome: Quarantined, *, record: Path | str, geojson: Path | str, labels: Path | None = None
) -> None:
    """Write a quarantine entry as the record and an empty GeoJSON in place of the annotation.

    ``labels``: for a mask, the folder of its label image; it becomes a store without arrays.
    """
    if labels is not None:
        write_empty_store(labels, outcome.dump())
    write_geojson(Annotation((), []), geojson)
    outcome.write(record)


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
        array = zarr.create_array(
            aside, shape=(height, width), chunks=(PART_PX, PART_PX), dtype="uint8", overwrite=True
        )
        for rows, columns in parts(labels.shape, labels.chunks):
            array[rows, columns] = labels.read(rows, columns)
