"""Damaged annotation files of every format: read as they were, or refused. Nothing else is raised, nothing crashes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
import zarr
from annotation_files import HEIGHT, SCANNED, SQUARE, WIDTH, coco, labelme, ndpa
from histomake.annotation.apart import apart
from histomake.annotation.formats import is_mask
from histomake.annotation.read import read_annotation
from histomake.base.errors import Reason, SlideError
from histomake.config import Annotations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

CONFIG = Annotations(classes={"Tumor": "tumor", "1": "tumor", "2": "stroma"}, max_outside=1.0)
FLIPS = int(os.environ.get("HISTOMAKE_FLIPS", "60"))
"""Files of each format with one to four changed bytes."""

MOST_SECONDS = 20
MEMORY_MB = 2000


def read(path: Path, size=(WIDTH, HEIGHT)) -> bytes:
    """All that is read of a file, as bytes that can be compared."""
    width, height = size
    found = read_annotation(path, CONFIG, slide_id="s", width=width, height=height, mpp=0.5, properties=SCANNED)
    if found.label_image is not None:
        return found.label_image.read(slice(None), slice(None)).tobytes()
    return b"".join(shapely.to_wkb(geometry) + name.encode() for name, geometry in found.regions)


SIZE = (300, 260)
LABELS = (np.add.outer(np.arange(260), np.arange(300)) // 60 % 3).astype(np.uint8)


def mask(path: Path) -> Path:
    kind, suffix = path.stem, path.suffix
    if suffix == ".npy":
        np.save(path, LABELS)
    elif suffix == ".png":
        Image.fromarray(LABELS > 0 if kind == "bits" else LABELS).save(path)
    elif suffix == ".zarr":
        codec = zarr.codecs.BloscCodec() if kind == "blosc" else zarr.codecs.ZstdCodec(checksum=kind == "checked")
        zarr.create_array(path, data=LABELS, chunks=(128, 128), compressors=codec)
    else:
        compression = {"raw": None, "lzw": "lzw", "zip": "deflate", "zstd": "zstd", "packbits": "packbits"}[kind]
        tifffile.imwrite(path, LABELS, tile=(128, 128), compression=compression)
    return path


def asap(path: Path) -> Path:
    corners = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(SQUARE))
    polygon = f'<Annotation Type="Polygon" PartOfGroup="Tumor"><Coordinates>{corners}</Coordinates></Annotation>'
    path.write_text(f"<ASAP_Annotations><Annotations>{polygon}</Annotations></ASAP_Annotations>")
    return path


def aperio(path: Path) -> Path:
    corners = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in SQUARE)
    region = f'<Region Type="0" NegativeROA="0"><Vertices>{corners}</Vertices></Region>'
    layer = f'<Annotation Id="1" Name="Tumor"><Regions>{region}</Regions></Annotation>'
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?><Annotations MicronsPerPixel="0.5">{layer}</Annotations>')
    return path


def feature(geometry: object = None, properties: object = None) -> dict:
    square = {"type": "Polygon", "coordinates": [[*SQUARE, SQUARE[0]]]}
    named = {"classification": {"name": "Tumor"}}
    return {"type": "Feature", "geometry": geometry or square, "properties": properties or named}


def geojson(path: Path, *features) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features) or [feature()]}))
    return path


MASKS = ["m.npy", "m.png", "bits.png", "checked.zarr", "blosc.zarr", "zstd.zarr"]
MASKS += [f"{codec}.tif" for codec in ("raw", "lzw", "zip", "zstd", "packbits")]
FILES = dict.fromkeys(MASKS, mask) | {
    "asap.xml": asap,
    "aperio.xml": aperio,
    "q.geojson": geojson,
    "coco.json": lambda path: coco(path, SQUARE),
    "labelme.json": lambda path: labelme(path, SQUARE),
    "n.ndpa": lambda path: ndpa(path, SQUARE),
}

CHECKED = ("m.png", "bits.png", "checked.zarr")
"""Formats with checksums over pixels. In the others, a changed byte can be another valid label or digit."""


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to four of them changed, or cut off."""
    content = bytearray(whole)
    for position in rng.integers(0, len(content), rng.integers(1, 5)):
        content[position] = rng.integers(0, 256)
    return bytes(content[: rng.integers(0, len(content))] if rng.random() < 0.1 else content)


def outcomes(path: Path, *, flips: int, seed: int) -> dict[str, int]:
    """How often a damaged file was read as before, read otherwise, or refused; in the child process."""
    logging.disable(logging.CRITICAL)
    size = SIZE if is_mask(path) else (WIDTH, HEIGHT)
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    truth, whole = read(path, size), {file: file.read_bytes() for file in sorted(files)}
    rng, counts = np.random.default_rng(seed), {"same": 0, "other": 0, "refused": 0}
    for _ in range(flips):
        file = list(whole)[rng.integers(len(whole))]
        file.write_bytes(damaged(whole[file], rng))
        started = time.monotonic()
        try:
            counts["same" if read(path, size) == truth else "other"] += 1
        except SlideError as error:
            counts["refused"] += error.reason is Reason.BAD_ANNOTATION
        assert time.monotonic() - started < MOST_SECONDS, file.read_bytes()
        file.write_bytes(whole[file])
    assert sum(counts.values()) == flips
    return counts


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_read_as_they_were_or_refused(tmp_path, name):
    path = FILES[name](tmp_path / name)
    answer = apart(
        lambda: json.dumps(outcomes(path, flips=FLIPS, seed=0)).encode(),
        memory_mb=MEMORY_MB,
        seconds=MOST_SECONDS * FLIPS,
    )
    counts = json.loads(answer)
    print(f"\n{name}: {counts}")
    assert counts["refused"] > 0
    if name in CHECKED:
        assert counts["other"] == 0


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
OF_GEOJSON = ["type", "features", "geometry", "coordinates", "geometries", "properties", "classification", "names"]
OF_OTHERS = ["images", "annotations", "categories", "shapes", "segmentation", "id", "image_id", "points", "label"]
KEYS = st.sampled_from([*OF_GEOJSON, *OF_OTHERS])
VALUES = PLAIN | st.sampled_from(["Feature", "FeatureCollection", "Polygon", "MultiPolygon", "GeometryCollection"])
JSON = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6))


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(JSON)
def test_any_json_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(content))
    read_or_refuse(path)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(PLAIN, PLAIN)
def test_any_geometry_and_properties_are_read_or_refused(tmp_path_factory, geometry, properties):
    path = geojson(tmp_path_factory.getbasetemp() / "any.geojson", feature(geometry, properties))
    read_or_refuse(path)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.floats(-5, 50), st.floats(-5, 50)), min_size=3, max_size=30))
def test_any_outline_has_a_valid_area_inside_the_slide(tmp_path_factory, points):
    ring = {"type": "Polygon", "coordinates": [[*points, points[0]]]}
    path = geojson(tmp_path_factory.getbasetemp() / "ring.geojson", feature(ring))
    found = read_or_refuse(path)
    for _, geometry in found.regions if found else []:
        assert geometry.is_valid
        assert geometry.area > 0
        assert shapely.box(0, 0, WIDTH, HEIGHT).buffer(1e-6).contains(geometry)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300), st.sampled_from([".npy", ".png", ".tif", ".xml", ".ndpa", ".geojson"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    read_or_refuse(path)


def read_or_refuse(path: Path):
    """What is read of a file, or None if it is refused."""
    logging.disable(logging.CRITICAL)
    try:
        return read_annotation(path, CONFIG, slide_id="s", width=WIDTH, height=HEIGHT, mpp=0.5, properties=SCANNED)
    except SlideError as error:
        refused = error
    finally:
        logging.disable(logging.NOTSET)
    assert refused.reason is Reason.BAD_ANNOTATION
    return None


def test_a_zarr_folder_without_metadata_is_refused(tmp_path):
    path = mask(tmp_path / "m.zarr")
    (path / "zarr.json").unlink()
    assert read_or_refuse(path) is None
    shutil.rmtree(path)
    assert read_or_refuse(path) is None
