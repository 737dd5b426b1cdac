"""Reader for GeoJSON annotations: QuPath 0.2 to 0.5, and plain GeoJSON with the class in any property."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from histomake.annotation.features import ABSENT, Feature, geometries, parse_features
from histomake.annotation.model import AnnotationError, Drawn
from histomake.config import Annotations

AREAS = ("Polygon", "MultiPolygon", "GeometryCollection")
UNCLASSIFIED = "unclassified"


def read_geojson(path: Path, config: Annotations, skipped: Counter[str]) -> tuple[str, list[Drawn]]:
    """Read all areal shapes of a GeoJSON file, in level-0 pixels; return the name of the format and the shapes.

    Points, lines and features without geometry are counted in ``skipped``.

    Raises:
        AnnotationError: The file is not JSON or not GeoJSON, or a geometry cannot be read.
    """
    try:
        features = parse_features(path.read_bytes())
        shapes = geometries(_outline(feature, config) for feature in features)
    except ValueError as error:
        raise AnnotationError(str(error)) from None
    drawn, qupath = [], False
    for feature, shape in zip(features, shapes, strict=True):
        properties = feature.properties or {}
        qupath = qupath or "classification" in properties or "objectType" in properties
        kind = "no geometry" if shape is None else shape.geom_type
        if kind in AREAS:
            drawn.append(Drawn(_name(properties, config.class_property), shape))
        else:
            skipped[kind] += 1
    return ("qupath" if qupath else "geojson"), drawn


def _outline(feature: Feature, config: Annotations) -> Any:
    wants_nucleus = config.cell_part == "nucleus" and bytes(feature.nucleus) != bytes(ABSENT)
    return feature.nucleus if wants_nucleus else feature.geometry


def _name(properties: dict[str, Any], class_property: str | None) -> str:
    """Return the annotator's class name of a feature, or "unclassified", which the configuration can map or ignore."""
    if class_property is not None:
        value: Any = properties
        for key in class_property.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return _text(value)
    candidates = (properties.get(key) for key in ("classification", "label", "name", "class"))
    return next((text for text in map(_text, candidates) if text != UNCLASSIFIED), UNCLASSIFIED)


def _text(value: Any) -> str:
    """Return a class as text. QuPath writes {"name": …}, or for derived classes {"names": […]}, joined by ": "."""
    if isinstance(value, dict):
        value = value.get("name") or ": ".join(map(str, value.get("names") or []))
    return UNCLASSIFIED if value in (None, "") else str(value)
