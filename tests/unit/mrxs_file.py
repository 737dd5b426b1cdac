"""Writer of small MIRAX slides (.mrxs, Slidedat.ini, Index.dat, Data0000.dat) that OpenSlide can open."""

from __future__ import annotations

import configparser
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import imagecodecs
import numpy as np
from histomake.slide.encode import halve

SLIDE_ID = "0123456789abcdef"
PHOTO_PX = 64
LEVELS = 3

Photos = dict[tuple[int, int], tuple[int, int]]
"""Stage position of each photo: (column, row) in the scanner's grid to (x, y) in level-0 pixels."""


def write_mrxs(
    path: Path,
    canvas: np.ndarray,
    photos: Photos,
    *,
    images: tuple[int, int],
    overlap: int,
    texts: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> Path:
    """Write a slide whose photos are cut from ``canvas``: uint8 (h, w, 3). ``images``: columns and rows of its grid.

    ``texts``: further values of Slidedat.ini, by section and key.

    Photos are lossless PNGs of 64 px. Each level joins 2 x 2 images of the level above, reduced to half size, without
    regard to the positions of their photos. The slide has a label, a JPEG.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True)
    path.write_bytes(imagecodecs.jpeg8_encode(canvas[:64, :64]))
    data = bytearray(b"data of the slide")
    pages = [_store_level(data, canvas, photos, 1 << level, images[0]) for level in range(LEVELS)]
    positions = b"".join(
        struct.pack("<bii", (column, row) in photos, *photos.get((column, row), (0, 0)))
        for row in range(images[1])
        for column in range(images[0])
    )
    label = bytes(imagecodecs.jpeg8_encode(np.full((30, 40, 3), 90, np.uint8)))
    records = [struct.pack("<7i", 1, 0, 0, 0, *_append(data, content), 0) for content in (positions, label)]
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_index(pages, records))
    _write_ini(folder / "Slidedat.ini", images, overlap, texts)
    return path


def _append(data: bytearray, content: bytes) -> tuple[int, int]:
    data += content
    return len(data) - len(content), len(content)


def _store_level(data: bytearray, canvas: np.ndarray, photos: Photos, joined: int, columns: int) -> bytes:
    """Append the images of a level, each of ``joined`` x ``joined`` photos; return their page of the index."""
    edge = PHOTO_PX // joined
    entries = []
    for column, row in sorted({(c // joined * joined, r // joined * joined) for c, r in photos}):
        image = np.full((PHOTO_PX, PHOTO_PX, 3), 255, np.uint8)
        for (c, r), (x, y) in photos.items():
            if (c // joined * joined, r // joined * joined) == (column, row):
                left, top = (c - column) * edge, (r - row) * edge
                photo = canvas[y : y + PHOTO_PX, x : x + PHOTO_PX]
                while len(photo) > edge:
                    photo = halve(photo)
                image[top : top + edge, left : left + edge] = photo
        place = _append(data, imagecodecs.png_encode(image))
        entries.append(struct.pack("<4i", row * columns + column, *place, 0))
    return struct.pack("<2i", len(entries), 0) + b"".join(entries)


def _index(pages: list[bytes], records: list[bytes]) -> bytes:
    """Return Index.dat: two tables of pointers, to levels and other records, each to a zero and a page pointer."""
    head = b"01.02" + SLIDE_ID.encode()
    tables = len(head) + 8
    heads = tables + 4 * len(pages + records)
    body = heads + 8 * len(pages + records)
    starts = [body + sum(map(len, (pages + records)[:i])) for i in range(len(pages + records))]
    pointers = struct.pack("<2i", tables, tables + 4 * len(pages))
    pointers += b"".join(struct.pack("<i", heads + 8 * i) for i in range(len(starts)))
    pointers += b"".join(struct.pack("<2i", 0, start) for start in starts)
    return head + pointers + b"".join(pages + records)


def _write_ini(path: Path, images: tuple[int, int], overlap: int, texts: Mapping[str, Mapping[str, str]]) -> None:
    sections = {f"HIER_0_VAL_{i}_SECTION": f"LAYER_0_LEVEL_{i}_SECTION" for i in range(LEVELS)}
    content: dict[str, dict[str, object]] = {
        "GENERAL": {
            "SLIDE_VERSION": "01.02",
            "SLIDE_ID": SLIDE_ID,
            "IMAGENUMBER_X": images[0],
            "IMAGENUMBER_Y": images[1],
            "OBJECTIVE_MAGNIFICATION": 20,
            "CameraImageDivisionsPerSide": 1,
        },
        "HIERARCHICAL": {
            "INDEXFILE": "Index.dat",
            "HIER_COUNT": 1,
            "HIER_0_NAME": "Slide zoom level",
            "HIER_0_COUNT": LEVELS,
            **sections,
            "NONHIER_COUNT": 2,
            "NONHIER_0_NAME": "VIMSLIDE_POSITION_BUFFER",
            "NONHIER_0_COUNT": 1,
            "NONHIER_0_VAL_0": "default",
            "NONHIER_0_VAL_0_SECTION": "NONHIERLAYER_0_SECTION",
            "NONHIER_1_NAME": "Scan data layer",
            "NONHIER_1_COUNT": 1,
            "NONHIER_1_VAL_0": "ScanDataLayer_SlideBarcode",
            "NONHIER_1_VAL_0_SECTION": "NONHIERLAYER_1_LEVEL_0_SECTION",
        },
        "NONHIERLAYER_0_SECTION": {"VIMSLIDE_POSITION_DATA_FORMAT_VERSION": 257},
        "NONHIERLAYER_1_LEVEL_0_SECTION": {"BARCODE_IMAGE_TYPE": "JPEG", "BARCODE_VALUE": "Doe, Jane 1970-01-01"},
        "DATAFILE": {"FILE_COUNT": 1, "FILE_0": "Data0000.dat"},
    }
    for level, section in enumerate(sections.values()):
        content[section] = {
            "OVERLAP_X": overlap,
            "OVERLAP_Y": overlap,
            "MICROMETER_PER_PIXEL_X": 0.25 * (1 << level),
            "MICROMETER_PER_PIXEL_Y": 0.25 * (1 << level),
            "IMAGE_FORMAT": "PNG",
            "IMAGE_FILL_COLOR_BGR": 0xFFFFFF,
            "DIGITIZER_WIDTH": PHOTO_PX,
            "DIGITIZER_HEIGHT": PHOTO_PX,
            "IMAGE_CONCAT_FACTOR": int(level > 0),
        }
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # keep the case of keys
    parser.read_dict(content)
    parser.read_dict(texts)
    with path.open("w") as stream:
        parser.write(stream, space_around_delimiters=False)
