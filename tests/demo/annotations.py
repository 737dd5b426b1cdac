"""Annotation files of the demo: the ground-truth mask as polygons or labels, in common annotation formats."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import cv2
import numpy as np

from tests.demo.tissue import CLASSES, MASK_SCALE

COLOURS = {"skin": (230, 159, 0), "nuclei": (0, 114, 178)}


def polygons(mask: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return (class, vertices float64 (n, 2) as x, y in level-0 pixels) of every outline, simplified like a drawing."""
    found = []
    for name, value in CLASSES.items():
        outlines, _ = cv2.findContours((mask == value).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for outline in outlines:
            ring = cv2.approxPolyDP(outline, 1.0, closed=True)[:, 0]
            if len(ring) > 3:
                found.append((name, (ring + 0.5) * MASK_SCALE))
    return found


def write_asap(path: Path, mask: np.ndarray, *, mpp: float) -> None:
    """Write ASAP XML: the class is the group of each polygon."""
    root = ET.Element("ASAP_Annotations")
    annotations, groups = ET.SubElement(root, "Annotations"), ET.SubElement(root, "AnnotationGroups")
    for index, (name, ring) in enumerate(polygons(mask)):
        attributes = {"Name": f"Annotation {index}", "Type": "Polygon", "PartOfGroup": name, "Color": "#F4FA58"}
        coordinates = ET.SubElement(ET.SubElement(annotations, "Annotation", attributes), "Coordinates")
        for order, (x, y) in enumerate(ring):
            ET.SubElement(coordinates, "Coordinate", {"Order": str(order), "X": f"{x:.1f}", "Y": f"{y:.1f}"})
    for name, colour in COLOURS.items():
        ET.SubElement(groups, "Group", {"Name": name, "PartOfGroup": "None", "Color": f"#{bytes(colour).hex()}"})
    _write_xml(path, root)


def write_aperio(path: Path, mask: np.ndarray, *, mpp: float) -> None:
    """Write Aperio ImageScope XML: the class is the layer of each region."""
    root = ET.Element("Annotations", {"MicronsPerPixel": f"{mpp:.4f}"})
    rings = polygons(mask)
    for layer, (name, (red, green, blue)) in enumerate(COLOURS.items(), start=1):
        colour = str(red + 256 * green + 65536 * blue)
        annotation = ET.SubElement(root, "Annotation", {"Id": str(layer), "Name": name, "LineColor": colour})
        regions = ET.SubElement(annotation, "Regions")
        for index, ring in enumerate((ring for kind, ring in rings if kind == name), start=1):
            region = ET.SubElement(regions, "Region", {"Id": str(index), "Type": "0", "NegativeROA": "0", "Text": ""})
            vertices = ET.SubElement(region, "Vertices")
            for x, y in ring:
                ET.SubElement(vertices, "Vertex", {"X": f"{x:.1f}", "Y": f"{y:.1f}", "Z": "0"})
    _write_xml(path, root)


def write_qupath(path: Path, mask: np.ndarray, *, mpp: float) -> None:
    """Write QuPath GeoJSON: the class is the classification, capitalised as is common in QuPath."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[*ring.tolist(), ring[0].tolist()]]},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": name.capitalize(), "color": list(COLOURS[name])},
            },
        }
        for name, ring in polygons(mask)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def write_mask(path: Path, mask: np.ndarray, *, mpp: float) -> None:
    """Write a label image of the whole slide, eight times coarser than level 0."""
    np.save(path, mask)


def _write_xml(path: Path, root: ET.Element) -> None:
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


WRITERS = {".asap.xml": write_asap, ".aperio.xml": write_aperio, ".geojson": write_qupath, "_mask.npy": write_mask}
