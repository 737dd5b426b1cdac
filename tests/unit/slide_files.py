"""Small synthetic slides for tests: coordinate grids and pyramids with known content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import tifffile
from histomake.slide.reader import SlideReader

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "slides"
"""Slides that are too large to commit; their tests are skipped if this folder is missing."""

BLOCK = 16


def grid(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Return an RGB image of 16 px blocks whose colour encodes their position; see ``block_places``."""
    rows, columns = np.mgrid[0:height, 0:width] // BLOCK
    return np.stack([columns, rows, np.full_like(rows, 100 + seed)], axis=2).astype(np.uint8)


def reduced_grid(width: int, height: int, downsample: int, seed: int = 0) -> np.ndarray:
    """Return every ``downsample``-th pixel of a ``grid``, an image of ``width`` x ``height`` px."""
    return grid(width * downsample, height * downsample, seed)[::downsample, ::downsample]


def block_places(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns and rows of the blocks in an image made by ``grid``."""
    return pixels[:, :, 0], pixels[:, :, 1]


def expected_places(x: int, y: int, width: int, height: int, downsample: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return what ``block_places`` must find in a crop of ``reduced_grid``; x, y and the size are in its pixels."""
    rows, columns = np.mgrid[y : y + height, x : x + width] * downsample // BLOCK
    return columns.astype(np.uint8), rows.astype(np.uint8)


def write_pyramid(path: Path, levels: list[np.ndarray], *, subifds: bool = False, **options: object) -> Path:
    """Write a TIFF with ``levels``, finest first, as further pages or, as in OME-TIFF, in SubIFDs."""
    options = {"tile": (128, 128), "photometric": "rgb", **options}
    with tifffile.TiffWriter(path, ome=subifds) as writer:
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 500.0, "PhysicalSizeYUnit": "nm"}
        extra = {"subifds": len(levels) - 1, "metadata": metadata} if subifds else {"metadata": None}
        writer.write(levels[0], resolution=(20_000, 20_000), resolutionunit="CENTIMETER", **extra, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, metadata=None, **options)
    return path


def write_scn(path: Path, levels: list[np.ndarray], *, offset: tuple[int, int], canvas: tuple[int, int]) -> Path:
    """Write a Leica SCN whose scanned area lies at ``offset`` on a larger, empty ``canvas`` (x, y; 0.5 µm pixels)."""
    places = [(level.shape[1], level.shape[0], ifd) for ifd, level in enumerate(levels)]
    images = _scn_image(places, offset, places[0][:2]) + _scn_image([(64, 64, len(levels))], (0, 0), canvas)
    description = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="u">'
        f'<collection name="c" uuid="c" sizeX="{canvas[0] * 500}" sizeY="{canvas[1] * 500}"><barcode/>{images}'
        "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for index, level in enumerate([*levels, np.full((64, 64, 3), 200, np.uint8)]):
            writer.write(
                level,
                tile=(64, 64),
                photometric="rgb",
                compression="jpeg",
                description=description if index == 0 else None,
                metadata=None,
            )
    return path


def _scn_image(levels: list[tuple[int, int, int]], offset: tuple[int, int], size: tuple[int, int]) -> str:
    dimensions = "".join(f'<dimension sizeX="{w}" sizeY="{h}" ifd="{i}" r="{i}"/>' for w, h, i in levels)
    return (
        f'<image name="i" uuid="{levels[0][2]}"><creationDate>2020-01-01</creationDate><device model="m" version="1"/>'
        f'<pixels sizeX="{levels[0][0]}" sizeY="{levels[0][1]}">{dimensions}</pixels>'
        f'<view sizeX="{size[0] * 500}" sizeY="{size[1] * 500}" offsetX="{offset[0] * 500}" '
        f'offsetY="{offset[1] * 500}" spacingZ="0"/><scanSettings><objectiveSettings><objective>20</objective>'
        "</objectiveSettings><illuminationSettings><numericalAperture>0.4</numericalAperture>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
    )


def openslide_level(path: Path, level: int = 0) -> np.ndarray:
    """Read a whole level with OpenSlide, blended over white: uint8 (h, w, 3)."""
    with openslide.OpenSlide(path) as slide:
        region = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))
    alpha = region[:, :, 3:].astype(np.uint16)
    return ((region[:, :, :3] * alpha + 255 * (255 - alpha)) // 255).astype(np.uint8)


def crops(reader: SlideReader) -> np.ndarray:
    """Read forty patches at random positions of a 2404 px slide. Spawned processes import this module quickly."""
    places = np.random.default_rng(0).integers(0, 2200, (40, 2))
    return reader.read_many([(int(x), int(y)) for x, y in places], 100, 0.499)
