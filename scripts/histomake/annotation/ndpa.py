"""Reader for NDPA, the annotations of Hamamatsu's NDP.view: nanometres from the centre of the glass slide."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely

from histomake.annotation.drawn import AnnotationError, Drawn, Reading, SlideFrame
from histomake.annotation.xml_stream import Events, open_events

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from numpy.typing import NDArray

OFFSETS = ("hamamatsu.XOffsetFromSlideCentre", "hamamatsu.YOffsetFromSlideCentre")
RESOLUTIONS = ("openslide.mpp-x", "openslide.mpp-y")
CIRCLE_SEGMENTS = 32


def read_ndpa(path: Path, reading: Reading) -> tuple[str, list[Drawn]]:
    """Read closed freehand outlines, rectangles and circles, in level-0 pixels; return the format and the shapes.

    The class is the title of the view that has the shape. Open lines, rulers, pointers and pins are counted as skipped.

    Raises:
        AnnotationError: The file is not NDPA, not in nanometres, or the slide does not state where it was scanned.
    """
    with open_events(path) as (root, events):
        if root.tag != "annotations":
            raise AnnotationError(f"not NDPA: the root is <{root.tag}> instead of <annotations>")
        return "ndpa", list(_views(events, reading))


def _views(events: Events, reading: Reading) -> Iterator[Drawn]:
    to_pixels = _Placement(reading.slide)
    for event, element in events:
        if event != "end" or element.tag != "ndpviewstate":
            continue
        unit = element.findtext("coordformat", "nanometers").strip()
        if unit != "nanometers":
            raise AnnotationError(f"coordinates are in {unit!r}, not in nanometers")
        name = (element.findtext("title") or "").strip() or "untitled"
        for shape in element.iter("annotation"):
            outline = _outline(shape)
            if outline is None:
                reading.skipped[_what(shape)] += 1
            else:
                yield Drawn(name, shapely.transform(outline, to_pixels))
        element.clear()


class _Placement:
    """Turns nanometres from the centre of the glass slide into level-0 pixels of its scan.

    The scanner states the centre of the scan, in nanometres from the centre of the glass.
    """

    def __init__(self, slide: SlideFrame) -> None:
        missing = [name for name in OFFSETS if name not in slide.properties]
        if missing:
            raise AnnotationError(
                f"the slide does not state {missing[0]}, without which NDPA has no place on it",
                "Give the NDPI file itself as the slide, or export the annotation in pixels",
            )
        self._centre = np.array([float(slide.properties[name]) for name in OFFSETS])
        # The file's own resolution: that of the sheet may be another.
        stated = [slide.properties.get(name) or slide.mpp for name in RESOLUTIONS]
        if not all(stated):
            raise AnnotationError("the slide has no resolution, without which NDPA has no place on it")
        self._nm_per_px = 1000 * np.array([float(value or 0) for value in stated])
        self._middle = np.array([slide.width, slide.height]) / 2

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return (points - self._centre) / self._nm_per_px + self._middle


def _outline(shape: Element) -> shapely.Polygon | None:
    """The area of a shape in nanometres; None if it has none."""
    if shape.get("type") == "circle":
        centre = shapely.Point(_value(shape, "x"), _value(shape, "y"))
        return centre.buffer(_value(shape, "radius"), quad_segs=CIRCLE_SEGMENTS)
    if shape.get("type") != "freehand" or shape.findtext("closed", "0").strip() != "1":
        return None
    points = [(_value(point, "x"), _value(point, "y")) for point in shape.iter("point")]
    return shapely.Polygon(points) if len(points) >= 3 else shapely.Polygon()


def _what(shape: Element) -> str:
    return "open line" if shape.get("type") == "freehand" else str(shape.get("type"))


def _value(parent: Element, name: str) -> float:
    text = parent.findtext(name, "")
    try:
        value = float(text)
    except ValueError:
        raise AnnotationError(f"<{name}> of a <{parent.tag}> is {text!r}, not a number") from None
    if not math.isfinite(value):
        raise AnnotationError(f"<{name}> of a <{parent.tag}> is {text!r}, which is not finite")
    return value
