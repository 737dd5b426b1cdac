"""File formats of the demo slides, each with the container and metadata of one scanner or program."""

from __future__ import annotations

import uuid
from pathlib import Path

import cv2
import numpy as np
import tifffile

TILE = (256, 256)


def write_svs(path: Path, pixels: np.ndarray, *, mpp: float) -> None:
    """Write Aperio SVS: JPEG tiles coded as RGB, a striped thumbnail as the second page, levels at 1/4 and 1/16."""
    height, width = pixels.shape[:2]
    header = "Aperio Image Library v11.2.1\r\n"
    title = f"{header}{width}x{height} [0,0 {width}x{height}] (256x256) JPEG/RGB Q=80"
    properties = f"|AppMag = 20|ScanScope ID = DEMO|Filename = {path.stem}|MPP = {mpp:.4f}|Left = 0.0|Top = 0.0"
    coding = {"level": 80, "outcolorspace": "rgb"}
    jpeg = {"compression": "jpeg", "compressionargs": coding, "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=False) as tiff:
        tiff.write(pixels, tile=TILE, description=title + properties, software=False, **jpeg)
        thumbnail = shrink(pixels, max(width, height) / 768)
        sizes = f"{header}{width}x{height} -> {thumbnail.shape[1]}x{thumbnail.shape[0]} - "
        tiff.write(thumbnail, rowsperstrip=16, description=sizes + properties, software=False, **jpeg)
        for factor in (4, 16):
            level = shrink(pixels, factor)
            sizes = f"{title} -> {level.shape[1]}x{level.shape[0]} JPEG/RGB Q=80"
            tiff.write(level, tile=TILE, subfiletype=1, description=sizes + properties, software=False, **jpeg)


def write_tiff(path: Path, pixels: np.ndarray, *, mpp: float | None) -> None:
    """Write a generic pyramid at 1/2, 1/4 and 1/8: subsampled YCbCr JPEG tiles, mpp only in the resolution tags."""
    with tifffile.TiffWriter(path) as tiff:
        for factor in (1, 2, 4, 8):
            resolution = {}
            if mpp is not None:
                resolution = {"resolution": (1e4 / (mpp * factor),) * 2, "resolutionunit": "CENTIMETER"}
            tiff.write(
                shrink(pixels, factor),
                tile=TILE,
                compression="jpeg",
                compressionargs={"level": 80},
                photometric="rgb",
                subfiletype=int(factor > 1),
                metadata=None,
                software=False,
                **resolution,
            )


def write_ome_tiff(path: Path, pixels: np.ndarray, *, mpp: float) -> None:
    """Write OME-TIFF: mpp in the OME-XML, levels at 1/2, 1/4 and 1/8 as SubIFDs."""
    options = {"tile": TILE, "compression": "jpeg", "compressionargs": {"level": 80}, "photometric": "rgb"}
    physical = {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm"}
    identity = {"UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, path.name)}"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(pixels, subifds=3, metadata={"axes": "YXS", **identity, **physical}, **options)
        for factor in (2, 4, 8):
            tiff.write(shrink(pixels, factor), subfiletype=1, **options)


def write_npy(path: Path, pixels: np.ndarray, *, mpp: float | None) -> None:
    """Write a plain array; the sheet must give its mpp."""
    np.save(path, pixels)


def shrink(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Reduce the image by ``factor`` with area averaging; sizes are rounded down as by scanners."""
    if factor == 1:
        return pixels
    size = (int(pixels.shape[1] / factor), int(pixels.shape[0] / factor))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


WRITERS = {".svs": write_svs, ".tiff": write_tiff, ".ome.tiff": write_ome_tiff, ".npy": write_npy}
