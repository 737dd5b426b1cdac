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
from case_files import FRAMES, card, jpeg, remove_tiles, write_dicom, write_svs
from histomake.base.errors import Reason, SlideError
from histomake.config import Convert
from histomake.slide.convert import convert
from histomake.slide.reader import SlideReader
from pydicom.uid import JPEGBaseline8Bit
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


def with_value(path: Path, page: int, **values: int) -> Path:
    """Replace values of tags of a page of a TIFF."""
    with tifffile.TiffFile(path) as tiff:
        tags = {name: tiff.pages[page].tags[name] for name in values}
    with path.open("r+b") as stream:
        for name, value in values.items():
            stream.seek(tags[name].valueoffset)
            stream.write(struct.pack({3: "<H", 4: "<I"}[int(tags[name].dtype)], value))
    return path


THUMBNAIL, MACRO_PAGE = 1, 3
"""Pages of `write_svs`."""


@pytest.mark.parametrize(
    ("page", "values"),
    [
        (THUMBNAIL, {"ImageLength": 0}),
        (THUMBNAIL, {"ImageWidth": 0, "ImageLength": 0}),
        (THUMBNAIL, {"RowsPerStrip": 0}),
        (THUMBNAIL, {"ImageLength": 60_000}),
        (THUMBNAIL, {"ImageWidth": 60_000, "ImageLength": 60_000, "RowsPerStrip": 60_000}),
        (MACRO_PAGE, {"ImageWidth": 0}),
        (MACRO_PAGE, {"ImageWidth": 60_000, "ImageLength": 60_000}),
    ],
)
def test_pictures_beside_the_slide_with_an_impossible_size_are_left_out(page, values, tmp_path):
    path = write_svs(tmp_path / "a.svs", extra=[(card("MACRO", 400, 130), 9, "macro 400x130")])
    reason, images = outcome_apart(with_value(path, page, **values))
    assert reason == ""
    assert images["thumbnail" if page == THUMBNAIL else "macro"].startswith("left out")


def forged_png(width: int, height: int, depth: int) -> bytes:
    """A PNG whose header states a size that its few bytes do not have."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0), b"IDAT": zlib.compress(bytes(100))}
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (chunks | {b"IEND": b""}).items()
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    "content",
    [forged_png(60_000, 60_000, 8), forged_png(20_000, 20_000, 16), jpeg_of_65535()],
    ids=["PNG", "PNG of 16 bits", "JPEG"],
)
def test_pictures_whose_header_states_gigabytes_are_refused(content, tmp_path):
    (tmp_path / "a").write_bytes(content)
    assert outcome_apart(tmp_path / "a")[0] in (Reason.IMPLAUSIBLE_SIZE, Reason.TRUNCATED)


def test_a_slide_without_any_tile_is_refused(tmp_path):
    tiff = write_svs(tmp_path / "a.svs", levels=())
    with tifffile.TiffFile(tiff) as opened:
        count = len(opened.pages[0].dataoffsets)
    assert outcome_apart(remove_tiles(tiff, 0, range(count)))[0]
    dicom = {"encode": jpeg, "syntax": JPEGBaseline8Bit, "photometric": "YBCR_FULL_422", "empty": range(FRAMES)}
    assert outcome_apart(write_dicom(tmp_path / "dicom" / "a.dcm", **dicom))[0]


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
