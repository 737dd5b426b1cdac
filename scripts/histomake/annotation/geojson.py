"""Owns reading GeoJSON annotations: QuPath 0.2 to 0.5 and plain GeoJSON with the class in some property."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shapely

from histomake.annotation.model import AnnotationError, Drawn
from histomake.config import Annotations

AREAS = ("Polygon", "MultiPolygon", "GeometryCollection")
UNCLASSIFIED = "unclassified"


def read_geojson(path: Path, config: Annotations, skipped: Counter[str]) -> tuple[str, list[Drawn]]:
    """All areal shapes of a GeoJSON file, in level-0 pixels, and the format's name.

    Takes a FeatureCollection, one Feature, or QuPath 0.2's bare list of Features. Points and lines are counted in
    ``skipped``.

    Raises:
        AnnotationError: not JSON, not GeoJSON, or a geometry that cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AnnotationError(f"not JSON ({error})") from None
    drawn, qupath = [], False
    for feature in _features(content):
        properties = feature.get("properties") or {}
        qupath = qupath or "classification" in properties or "objectType" in properties
        geometry = feature.get("geometry")
        if config.cell_part == "nucleus":
            geometry = feature.get("nucleusGeometry") or geometry
        kind = (geometry or {}).get("type", "no geometry")
        if kind in AREAS:
            drawn.append(Drawn(_name(properties, config.class_property), _shape(geometry)))
        else:
            skipped[kind] += 1
    return ("qupath" if qupath else "geojson"), drawn


def _features(content: Any) -> Iterator[dict[str, Any]]:
    kind = content.get("type") if isinstance(content, dict) else None
    members = content if isinstance(content, list) else content.get("features") if kind == "FeatureCollection" else None
    if kind == "Feature":
        members = [content]
    if not isinstance(members, list) or not all(isinstance(m, dict) and m.get("type") == "Feature" for m in members):
        raise AnnotationError("JSON, but neither a GeoJSON FeatureCollection, a Feature nor a list of Features")
    yield from members


def _shape(geometry: dict[str, Any]) -> shapely.Geometry:
    try:
        return shapely.force_2d(shapely.from_geojson(json.dumps(geometry)))
    except (shapely.errors.GEOSException, ValueError) as error:
        raise AnnotationError(f"a {geometry.get('type')} that cannot be read ({error})") from None


def _name(properties: dict[str, Any], class_property: str | None) -> str:
    """The annotator's name for a feature; without one it is "unclassified", which a user can map or ignore."""
    if class_property is not None:
        value: Any = properties
        for key in class_property.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return _text(value)
    candidates = (properties.get(key) for key in ("classification", "label", "name", "class"))
    return next((text for text in map(_text, candidates) if text != UNCLASSIFIED), UNCLASSIFIED)


def _text(value: Any) -> str:
    """QuPath writes a class as {"name": …} or, for derived classes, {"names": […]}, which it shows joined by ": "."""
    if isinstance(value, dict):
        value = value.get("name") or ": ".join(map(str, value.get("names") or []))
    return UNCLASSIFIED if value in (None, "") else str(value)
