"""Small annotation files of programs whose coordinates or scale the file itself states."""

from __future__ import annotations

import json
from pathlib import Path

WIDTH, HEIGHT = 2220, 2967
"""The annotated slide, in level-0 pixels."""

SQUARE = [(100, 200), (300, 200), (300, 500), (100, 500)]

SCANNED = {
    "openslide.mpp-x": "0.25",
    "openslide.mpp-y": "0.25",
    "hamamatsu.XOffsetFromSlideCentre": "12538720",
    "hamamatsu.YOffsetFromSlideCentre": "-96063",
}
"""Where the scanner found the slide, in nm from the centre of the glass."""


def coco(path: Path, points, *, width=WIDTH, height=HEIGHT, segmentation=None) -> Path:
    """COCO JSON with one object of the class Tumor."""
    flat = [[v for point in points for v in point]] if segmentation is None else segmentation
    content = {
        "images": [{"id": 1, "width": width, "height": height, "file_name": "s1.png"}],
        "categories": [{"id": 7, "name": "Tumor"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "segmentation": flat, "iscrowd": 0}],
    }
    path.write_text(json.dumps(content))
    return path


def labelme(path: Path, points, kind="polygon", *, width=WIDTH, height=HEIGHT) -> Path:
    """JSON of labelme with one shape of the class Tumor."""
    shape = {"label": "Tumor", "points": points, "shape_type": kind, "flags": {}}
    content = {"version": "5.5.0", "shapes": [shape], "imageWidth": width, "imageHeight": height, "imagePath": "s1.png"}
    path.write_text(json.dumps(content))
    return path


def ndpa_view(points, *, closed=1, title="Tumor", unit="nanometers", shape="freehand") -> str:
    """A view of NDPA with one shape on the slide that `SCANNED` describes."""
    nm = [(12538720 + (x - WIDTH / 2) * 250, -96063 + (y - HEIGHT / 2) * 250) for x, y in points]
    corners = "".join(f"<point><x>{x:.0f}</x><y>{y:.0f}</y></point>" for x, y in nm)
    return (
        f'<ndpviewstate id="1"><title>{title}</title><coordformat>{unit}</coordformat><lens>5</lens>'
        f'<annotation type="{shape}" displayname="AnnotateFreehand" color="#000000"><closed>{closed}</closed>'
        f"<pointlist>{corners}</pointlist></annotation></ndpviewstate>"
    )


def ndpa(path: Path, points, *views: str, **keys) -> Path:
    """NDPA with one shape, and further views."""
    head = '<?xml version="1.0" encoding="utf-8" standalone="yes"?>'
    path.write_text(f"{head}<annotations>{ndpa_view(points, **keys)}{''.join(views)}</annotations>")
    return path
