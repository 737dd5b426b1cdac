"""Reader for JSON annotations: GeoJSON, COCO and labelme. Other formats are refused, with their name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import shapely

from histomake.annotation.drawn import AnnotationError, Drawn, Reading
from histomake.annotation.features import BYTE_ORDER_MARK, decode
from histomake.annotation.geojson import read_geojson
from histomake.annotation.mask import scale_of

EXPORT = "Export it as GeoJSON, COCO with polygons, or a label mask"

FOREIGN = {
    "V7 Darwin JSON": ({"annotations", "item"}, {"annotations", "image", "dataset"}, {"schema_ref", "annotations"}),
    "VGG Image Annotator (VIA) JSON": ({"_via_img_metadata"}, {"_via_settings"}),
    "Supervisely JSON": ({"objects", "size"},),
    "Digital Slide Archive (HistomicsUI) JSON": ({"elements"}, {"annotation"}),
    "Label Studio JSON": ({"data", "annotations"}, {"data", "completions"}),
    "TopoJSON": ({"arcs", "objects"},),
    "CVAT JSON": ({"shapes", "tracks", "tags"},),
}
"""Formats that are not read: names, and sets of keys of their first object, each of which identifies them."""

Keys = dict[str, msgspec.Raw]


def read_json(path: Path, reading: Reading) -> tuple[str, list[Drawn]]:
    """Read all areal shapes of a JSON file, in level-0 pixels; return the name of the format and the shapes.

    Raises:
        AnnotationError: The file is not JSON, of a format that is not read, or a shape cannot be read.
    """
    content = path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    keys = _first_object(content)
    if {"images", "annotations", "categories"} <= keys.keys():
        return "coco", list(_coco(_decoded(content, CocoFile), reading))
    if "shapes" in keys and not {"tracks", "tags"} <= keys.keys():
        return "labelme", list(_labelme(_decoded(content, LabelmeFile), reading))
    if "type" not in keys:
        for name, tokens in FOREIGN.items():
            if any(token <= keys.keys() for token in tokens):
                raise AnnotationError(f"this is {name}, which is not read", EXPORT)
    return read_geojson(content, reading)


def _first_object(content: bytes) -> Keys:
    """The keys of the file's object, or of the first in a list; none for anything else."""
    try:
        return decode(content, Keys)
    except msgspec.ValidationError:
        pass  # a list
    except ValueError as error:
        raise AnnotationError(str(error)) from None
    try:
        items = decode(content, list[msgspec.Raw])
        return decode(bytes(items[0]), Keys) if items else {}
    except msgspec.ValidationError:
        return {}


def _decoded[T](content: bytes, kind: type[T]) -> T:
    try:
        return decode(content, kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise AnnotationError(f"it is not valid as {kind.__name__.removesuffix('File')} JSON ({error})") from None


class CocoImage(msgspec.Struct):
    """An image that the file annotates."""

    id: int | str
    width: int
    height: int
    file_name: str = ""


class CocoCategory(msgspec.Struct):
    """A class."""

    id: int | str
    name: str


class CocoAnnotation(msgspec.Struct):
    """An object: polygons as flat lists x, y, x, y …, or a run-length mask."""

    image_id: int | str
    category_id: int | str
    segmentation: Any = None


class CocoFile(msgspec.Struct):
    """COCO's object detection format (cocodataset.org, data format)."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


def _coco(file: CocoFile, reading: Reading) -> Iterator[Drawn]:
    image, names = _image_of(file.images, reading), {category.id: category.name for category in file.categories}
    scale = _scale(image.width, image.height, reading)
    for found in file.annotations:
        if found.image_id != image.id:
            continue
        if found.category_id not in names:
            raise AnnotationError(f"an annotation has the category {found.category_id}, which the file does not define")
        if isinstance(found.segmentation, dict):
            raise AnnotationError(
                "an object is a run-length mask (RLE), which is not read", "Export polygons, or a mask"
            )
        if not found.segmentation:
            reading.skipped["box without outline"] += 1
            continue
        rings = [_ring(np.reshape(_numbers(part), (-1, 2)) * scale) for part in found.segmentation]
        yield Drawn(names[found.category_id], shapely.multipolygons([ring for ring in rings if not ring.is_empty]))


def _image_of(images: list[CocoImage], reading: Reading) -> CocoImage:
    """The only image, or of several the one that is named like the slide."""
    named = [image for image in images if Path(image.file_name).stem == reading.slide.slide_id]
    found = images if len(images) == 1 else named
    if len(found) != 1:
        names = ", ".join(image.file_name for image in images[:5])
        raise AnnotationError(
            f"the file annotates {len(images)} images ({names} …), and {len(named)} of them have the name of the slide",
            f"Name the image {reading.slide.slide_id}, or keep one image in the file",
        )
    return found[0]


class LabelmeShape(msgspec.Struct):
    """A shape: points x, y in the pixels of the image."""

    label: str
    points: list[tuple[float, float]]
    shape_type: str | None = None


class LabelmeFile(msgspec.Struct):
    """labelme's JSON."""

    shapes: list[LabelmeShape]
    image_width: int | None = msgspec.field(default=None, name="imageWidth")
    image_height: int | None = msgspec.field(default=None, name="imageHeight")


def _labelme(file: LabelmeFile, reading: Reading) -> Iterator[Drawn]:
    if file.image_width is None or file.image_height is None:
        raise AnnotationError("imageWidth and imageHeight are missing, so that the scale is unknown")
    scale = _scale(file.image_width, file.image_height, reading)
    for shape in file.shapes:
        drawn_as = shape.shape_type or "polygon"
        if drawn_as == "mask":
            raise AnnotationError("a shape is a bitmap (mask), which is not read", "Save polygons, or a label mask")
        if drawn_as in AREAS:
            yield Drawn(shape.label, AREAS[drawn_as](np.reshape(np.array(shape.points, float), (-1, 2)) * scale))
        else:
            reading.skipped[drawn_as] += 1


def _ring(points: np.ndarray) -> shapely.Polygon:
    return shapely.Polygon(points) if len(points) >= 3 else shapely.Polygon()


def _rectangle(points: np.ndarray) -> shapely.Polygon:
    return shapely.box(*points.min(axis=0), *points.max(axis=0)) if len(points) == 2 else _ring(points)


def _circle(points: np.ndarray) -> shapely.Polygon:
    """Centre, and a point on the circle."""
    if len(points) != 2:
        return shapely.Polygon()
    return shapely.Point(points[0]).buffer(float(np.hypot(*(points[1] - points[0]))), quad_segs=32)


AREAS: dict[str, Callable[[np.ndarray], shapely.Polygon]] = {
    "polygon": _ring,
    "rectangle": _rectangle,
    "circle": _circle,
}
"""Shapes of labelme that have an area; points, lines and line strips have none."""


def _numbers(part: object) -> list[float]:
    if isinstance(part, list) and len(part) % 2 == 0 and all(type(value) in (int, float) for value in part):
        return part
    raise AnnotationError("a polygon of COCO must be a list of numbers x, y, x, y …")


def _scale(width: int, height: int, reading: Reading) -> int:
    """Level-0 pixels per pixel of the image that the file says it annotates: the slide, or a whole fraction of it."""
    return scale_of((height, width), width=reading.slide.width, height=reading.slide.height, what="annotated image")
