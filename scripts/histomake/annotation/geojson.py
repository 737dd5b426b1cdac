"""Reader for GeoJSON annotations: QuPath 0.2 to 0.5, and plain GeoJSON with the class in any property."""

from __future__ import annotations

import ast
from collections.abc import Mapping

import msgspec

from histomake.annotation.drawn import AnnotationError, Drawn, Reading
from histomake.annotation.features import ABSENT, Feature, geometries, parse_features
from histomake.annotation.overlap import flat_parts
from histomake.config import Annotations

AREAS = ("Polygon", "MultiPolygon", "GeometryCollection")
UNCLASSIFIED = "unclassified"
NAMES = ("classification", "classification_name", "classification.name", "label", "name", "class")
"""Properties that may hold the class. GDAL flattens nested ones to names with ``_`` or ``.``."""


def read_geojson(content: bytes, reading: Reading) -> tuple[str, list[Drawn]]:
    """Read all areal shapes of GeoJSON, in level-0 pixels; return the name of the format and the shapes.

    Points, lines and features without geometry are counted as skipped.

    Raises:
        AnnotationError: The file is not JSON or not GeoJSON, or a geometry cannot be read.
    """
    try:
        features = parse_features(content)
        shapes = geometries(_outline(feature, reading.config) for feature in features)
    except ValueError as error:
        raise AnnotationError(str(error)) from None
    drawn, qupath, config, skipped = [], False, reading.config, reading.skipped
    for feature, shape in zip(features, shapes, strict=True):
        properties = feature.properties or {}
        qupath = qupath or "classification" in properties or "objectType" in properties
        kind = "no geometry" if shape is None else shape.geom_type
        if kind in AREAS:
            drawn.append(Drawn(_name(properties, config.class_property), shape))
            skipped.update(part.geom_type for part in flat_parts(shape) if part.geom_type != "Polygon")
        else:
            skipped[kind] += 1
    return ("qupath" if qupath else "geojson"), drawn


def _outline(feature: Feature, config: Annotations) -> msgspec.Raw:
    wants_nucleus = config.cell_part == "nucleus" and bytes(feature.nucleus) != bytes(ABSENT)
    return feature.nucleus if wants_nucleus else feature.geometry


def _name(properties: Mapping[str, object], class_property: str | None) -> str:
    """Return the annotator's class name of a feature, or "unclassified", which the configuration can map or ignore."""
    if class_property is not None:
        value: object = properties
        for key in class_property.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return _text(value)
    return next((text for text in (_text(properties.get(k)) for k in NAMES) if text != UNCLASSIFIED), UNCLASSIFIED)


def _text(value: object) -> str:
    """Return a class as text. QuPath writes {"name": …}, or for derived classes {"names": […]}, joined by ": "."""
    value = _unpacked(value)
    if isinstance(value, dict):
        names = value.get("names") or []
        value = value.get("name") or (": ".join(map(str, names)) if isinstance(names, list) else names)
    return UNCLASSIFIED if value in (None, "") else str(value)


def _unpacked(value: object) -> object:
    """Parse an object that GDAL wrote as JSON text, or a Python program as Python text; return other values as is."""
    if not (isinstance(value, str) and value.strip().startswith("{")):
        return value
    for parse in (msgspec.json.decode, ast.literal_eval):
        try:
            found = parse(value)
        except (ValueError, SyntaxError):
            continue
        return found if isinstance(found, dict) else value
    return value
