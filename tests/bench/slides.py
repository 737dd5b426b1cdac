"""Large slides for benchmarks: Aperio-like SVS files composed of the real tissue of CMU-1-Small-Region.

The tissue is mirrored over an ellipse on a white background. Tiles have the properties of Aperio's that cause errors in
readers: abbreviated JPEG streams whose three components are R, G, B without any marker that states it, and tables in
the JPEGTables tag.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile

REGION = Path(__file__).resolve().parent.parent / "data" / "slides" / "CMU-1-Small-Region.svs"
TILE = 256
QUALITY = 30
DOWNSAMPLES = (1, 4, 16)
MPP = 0.499
DESCRIPTION = "Aperio Image Library v11.2.1 \n{w}x{h} [0,0 {w}x{h}] ({t}x{t}) JPEG/RGB Q=30|AppMag = 20|MPP = {mpp}"
_TABLE_MARKERS = (0xDB, 0xC4)


def big_slide(folder: Path, side: int, *, colour: str = "RGB") -> Path:
    """Return a square pyramidal SVS of ``side`` px, created once per folder. ``colour``: RGB or YCBCR tiles."""
    path = folder / f"cmu-{side}-{colour.lower()}.svs"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    tissue = tifffile.imread(REGION)
    tables, _ = abbreviate(_encode(tissue[:TILE, :TILE], colour))
    with tifffile.TiffWriter(aside, bigtiff=True) as writer:
        for index, downsample in enumerate(DOWNSAMPLES):
            edge = side // downsample
            writer.write(
                _tiles(tissue, side, downsample, colour),
                shape=(edge, edge, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"outcolorspace": colour.lower()},
                jpegtables=tables,
                subsampling=(1, 1) if colour == "RGB" else (2, 2),
                description=DESCRIPTION.format(w=edge, h=edge, t=TILE, mpp=MPP),
                metadata=None,
            )
            if index == 0:
                thumbnail = np.full((256, 256, 3), 255, np.uint8)
                writer.write(thumbnail, photometric="rgb", rowsperstrip=16, description="thumbnail", metadata=None)
    aside.replace(path)
    return path


def _tiles(tissue: np.ndarray, side: int, downsample: int, colour: str) -> Iterator[bytes]:
    grid = math.ceil((side // downsample) / TILE)
    white = abbreviate(_encode(np.full((TILE, TILE, 3), 255, np.uint8), colour))[1]

    def encoded(place: tuple[int, int]) -> bytes:
        pixels = tile_pixels(tissue, side, downsample, *place)
        return white if pixels.min() == 255 else abbreviate(_encode(pixels, colour))[1]

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(encoded, product(range(grid), range(grid)))


def tile_pixels(tissue: np.ndarray, side: int, downsample: int, row: int, column: int) -> np.ndarray:
    """Return the pixels of one tile of the slide: uint8 (TILE, TILE, 3)."""
    span = TILE * downsample
    ys, xs = row * span + np.arange(span), column * span + np.arange(span)
    inside = ((ys[:, None] / side - 0.5) / 0.45) ** 2 + ((xs[None, :] / side - 0.5) / 0.45) ** 2 <= 1
    if not inside.any():
        return np.full((TILE, TILE, 3), 255, np.uint8)
    pixels = tissue[np.ix_(_mirror(ys, tissue.shape[0]), _mirror(xs, tissue.shape[1]))]
    pixels[~inside] = 255
    return pixels if downsample == 1 else cv2.resize(pixels, (TILE, TILE), interpolation=cv2.INTER_AREA)


def _mirror(positions: np.ndarray, length: int) -> np.ndarray:
    phase = positions % (2 * length)
    return np.where(phase < length, phase, 2 * length - 1 - phase)


def _encode(pixels: np.ndarray, colour: str) -> bytes:
    subsampling = "444" if colour == "RGB" else "420"
    stream = imagecodecs.jpeg8_encode(
        np.ascontiguousarray(pixels), level=QUALITY, colorspace="RGB", outcolorspace=colour, subsampling=subsampling
    )
    return bytes(stream)


def abbreviate(stream: bytes) -> tuple[bytes, bytes]:
    """Split a JPEG file into its tables and an abbreviated stream without tables, colour markers or RGB names."""
    tables, rest, position = b"", b"", 2
    while True:
        marker = stream[position + 1]
        (length,) = struct.unpack_from(">H", stream, position + 2)
        segment = bytearray(stream[position : position + 2 + length])
        position += 2 + length
        if marker in _TABLE_MARKERS:
            tables += segment
        elif marker & 0xF0 != 0xE0:
            rest += _renumbered(marker, segment)
        if marker == 0xDA:
            return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + stream[position:]


def _renumbered(marker: int, segment: bytearray) -> bytes:
    """Name the components 0, 1, 2, as Aperio does; the names "R", "G", "B" would reveal the colour space."""
    first, step = (10, 3) if marker in (0xC0, 0xC1) else (5, 2) if marker == 0xDA else (0, 0)
    for component in range(3 if step else 0):
        segment[first + component * step] = component
    return bytes(segment)
