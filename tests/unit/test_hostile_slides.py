"""Files made to exhaust memory: no decoder gets more of it than the header by which the slide was accepted.

Each file is converted and read in a process of its own, whose largest memory is measured.
"""

from __future__ import annotations

import multiprocessing
import struct
import tempfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from histomake.base.errors import Reason, SlideError
from histomake.config import Convert
from histomake.slide.convert import convert
from histomake.slide.reader import SlideReader
from slide_files import SHARED
from test_slide_fuzz import peak_megabytes

HOSTILE = SHARED.parents[1] / "cases" / "hostile"
MOST_MB = 300
"""More memory than that of a process that has read a small slide; the files ask for gigabytes."""

SIDE = 512


def outcome(path: Path) -> tuple[str, dict[str, str], int]:
    """Convert a slide, read all of it; return the reason of a refusal, associated images, and MB of memory used."""
    before = peak_megabytes()
    associated: dict[str, str] = {}
    reason = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            manifest = convert(path, Path(folder) / "a.zarr", slide_id="a", config=Convert(), mpp=0.5)
            associated = dict(manifest.associated)
            with SlideReader(Path(folder) / "a.zarr") as reader:
                reader.read_whole(1.0)
        except SlideError as error:
            reason = error.reason
    return reason, associated, peak_megabytes() - before


def outcome_apart(path: Path) -> tuple[str, dict[str, str]]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as worker:
        reason, associated, memory = worker.submit(outcome, path).result(timeout=120)
    assert memory < MOST_MB
    return reason, associated


def with_tile(path: Path, compression: str, tile: bytes) -> Path:
    """A TIFF of 2 x 2 tiles of 256 px, of which the last one has other bytes, at the end of the file."""
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb", compression=compression)
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages[0].tags
        places = [(tags[name].valueoffset, tags[name].dtype) for name in ("TileOffsets", "TileByteCounts")]
    content = bytearray(path.read_bytes())
    for (offset, kind), value in zip(places, (len(content), len(tile)), strict=True):
        code = {3: "H", 4: "I", 16: "Q"}[int(kind)]
        struct.pack_into(f"<{code}", content, offset + 3 * struct.calcsize(code), value)
    path.write_bytes(bytes(content) + tile)
    return path


def jpeg2000_of_65535() -> bytes:
    stream = bytearray(imagecodecs.jpeg2k_encode(np.zeros((256, 256, 3), np.uint8), codecformat="j2k", level=0))
    at = stream.index(b"\xff\x51") + 6
    struct.pack_into(">II", stream, at, 65535, 65535)
    return bytes(stream)


def jpeg_of_65535() -> bytes:
    stream = bytearray(imagecodecs.jpeg8_encode(np.zeros((256, 256, 3), np.uint8)))
    struct.pack_into(">HH", stream, stream.index(b"\xff\xc0") + 5, 65535, 65535)
    return bytes(stream)


BOMBS = {
    "jpeg2000": jpeg2000_of_65535,
    "jpeg": jpeg_of_65535,
    "webp": lambda: bytes(imagecodecs.webp_encode(np.zeros((10_000, 10_000, 3), np.uint8), lossless=True, level=0)),
    "deflate": lambda: zlib.compress(bytes(600 << 20), 1),
    "zstd": lambda: bytes(imagecodecs.zstd_encode(bytes(600 << 20), level=1)),
}


@pytest.mark.parametrize("compression", BOMBS)
def test_a_tile_that_decodes_to_more_than_its_place_is_refused(compression, tmp_path):
    path = with_tile(tmp_path / "a.tif", compression, BOMBS[compression]())
    assert outcome_apart(path)[0] in (Reason.DAMAGED_TILES, Reason.IMPLAUSIBLE_SIZE)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "reason", "associated"),
    [
        ("bombs/tiff_jpegtile_65535.tiff", Reason.DAMAGED_TILES, ""),
        ("bombs/dicom_jpeg_65535.dcm", Reason.DAMAGED_TILES, ""),
        ("bombs/png_23000_rgba.png", Reason.IMPLAUSIBLE_SIZE, ""),
        ("bombs/tiff_absent_200k.tiff", Reason.DAMAGED, ""),
        ("bombs/tiff_absent_1.9M.tiff", Reason.IMPLAUSIBLE_SIZE, ""),
        ("bombs/svs_thumbnail_60000.svs", "", "thumbnail"),
        ("slides/thumbnail_width_0_crash.svs", "", "thumbnail"),
        ("slides/svs_label_nodesc.svs", "", "label"),
        ("slides/svs_label_unnamed_subfiletype1.svs", "", "label"),
        ("slides/one_damaged_tile.svs", Reason.DAMAGED_TILES, ""),
    ],
)
def test_hostile_files_are_refused_or_read_without_what_is_hostile(file, reason, associated):
    """``associated``: the image that is left out."""
    found, images = outcome_apart(HOSTILE / file)
    assert found == reason
    if associated:
        assert images[associated].startswith("left out")
