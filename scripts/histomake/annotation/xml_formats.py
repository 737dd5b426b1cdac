"""Reader for XML annotations: ASAP, and the related formats of Aperio ImageScope and HALO.

Files are streamed, so memory depends on the largest region, not the file. Entities and DTDs are refused (defusedxml).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely

from histomake.annotation.drawn import AnnotationError, Drawn, Reading
from histomake.annotation.shapes import check_crossings_between, cut_out, enclosed_areas
from histomake.annotation.units import doubtful_mpp
from histomake.annotation.xml_stream import Events, number, open_events, points

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ASAP_AREAS = ("Polygon", "Spline", "Rectangle")
# ImageScope numbers its region types, HALO names them. Arrows, rulers, pins and text have no area.
AREAS = {"0": "polygon", "1": "rectangle", "2": "ellipse", "polygon": "polygon", "freehand": "polygon"}
AREAS |= {"rectangle": "rectangle", "ellipse": "ellipse"}
ELLIPSE_SEGMENTS = 32  # per quarter: the area of the polygon is 0.04 % smaller than that of the ellipse


def read_xml(path: Path, reading: Reading) -> tuple[str, list[Drawn]]:
    """Read all areal shapes of an XML annotation, in level-0 pixels; return the name of the format and the shapes.

    Shapes without area (points, rulers, arrows) are counted as skipped.

    Raises:
        AnnotationError: The file is not XML, unsafe XML or of an unknown format, or a coordinate is not a number.
    """
    with open_events(path) as (root, events):
        if root.tag == "ASAP_Annotations":
            return "asap", list(_asap(events, reading.skipped))
        if root.tag == "Annotations":
            reading.warnings += doubtful_mpp(root.get("MicronsPerPixel"), reading.slide, path.name)
            drawn = list(_layers(events, reading.skipped))
            return _dialect(reading.skipped), drawn
        raise AnnotationError(
            f"unknown XML format: the root is <{root.tag}> instead of ASAP_Annotations or Annotations"
        )


def _asap(events: Events, skipped: Counter[str]) -> Iterator[Drawn]:
    """Read ASAP. The class is the group to which the annotation belongs, "None" without a group."""
    for event, element in events:
        if event != "end" or element.tag != "Annotation":
            continue
        kind = element.get("Type", "Polygon")
        if kind in ASAP_AREAS:
            vertices = list(element.iter("Coordinate"))
            if any("Order" in vertex.attrib for vertex in vertices):
                vertices.sort(key=lambda vertex: number(vertex, "Order"))
            yield Drawn(element.get("PartOfGroup", "None"), _ring(points(vertices)))
        else:
            skipped[kind] += 1
        element.clear()


def _layers(events: Events, skipped: Counter[str]) -> Iterator[Drawn]:
    """Read ImageScope and HALO. The class is the layer's name; negative regions are cut out of their own layer."""
    layer: dict[str, str] = {}
    positive: list[Drawn] = []
    negative: list[shapely.Geometry] = []
    for event, element in events:
        if event == "start" and element.tag == "Annotation":
            layer, positive, negative = dict(element.attrib), [], []
        elif event == "end" and element.tag == "Region":
            shape = _region(element, skipped)
            if shape is not None and element.get("NegativeROA", "0") == "1":
                negative.append(shape)
            elif shape is not None:
                positive.append(Drawn(_layer_name(layer, element), shape))
            element.clear()
        elif event == "end" and element.tag == "Annotation":
            yield from _cut_out(positive, negative)


def _dialect(skipped: Counter[str]) -> str:
    return "halo" if skipped.pop("<V>", 0) else "aperio"


def _layer_name(layer: dict[str, str], region: Element) -> str:
    """Return the layer's name. ImageScope leaves it empty by default; then the region's text is used, or the id."""
    return layer.get("Name") or region.get("Text") or f"layer {layer.get('Id', '?')}"


def _region(region: Element, skipped: Counter[str]) -> shapely.Geometry | None:
    outline = AREAS.get(region.get("Type", "0").lower())
    halo = list(region.iter("V"))
    skipped["<V>"] += len(halo)
    corners = points(halo or list(region.iter("Vertex")))
    if outline is None:
        skipped[f"region type {region.get('Type')}"] += 1
        return None
    if outline == "ellipse" and len(corners) >= 2:
        x0, y0, x1, y1 = *corners.min(axis=0), *corners.max(axis=0)
        circle = shapely.Point(0, 0).buffer(1, quad_segs=ELLIPSE_SEGMENTS)
        return shapely.transform(circle, lambda p: p * [(x1 - x0) / 2, (y1 - y0) / 2] + [(x0 + x1) / 2, (y0 + y1) / 2])
    if outline == "rectangle" and len(corners) == 2:
        return shapely.box(*corners.min(axis=0), *corners.max(axis=0))
    return _ring(corners)


def _ring(corners: np.ndarray) -> shapely.Polygon:
    """Return a polygon through the points. Fewer than three give an empty one, which is counted as degenerate."""
    return shapely.Polygon(corners) if len(corners) >= 3 else shapely.Polygon()


def _cut_out(positive: list[Drawn], negative: list[shapely.Geometry]) -> Iterator[Drawn]:
    """Cut the negative regions of a layer out of its positive ones."""
    if not negative:
        yield from positive
        return
    holes, _ = enclosed_areas(np.array(negative, dtype=object))
    areas, _ = enclosed_areas(np.array([drawn.geometry for drawn in positive], dtype=object))
    check_crossings_between(shapely.boundary(np.array([*areas, *holes], dtype=object)))
    for drawn, area in zip(positive, cut_out(areas, holes), strict=True):
        yield Drawn(drawn.name, area)
