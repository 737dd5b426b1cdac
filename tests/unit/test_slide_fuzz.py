"""Single bytes of slides changed: the store is the same or the slide is refused, in bounded time and memory.

Formats have no checksums, so some changes cannot be seen: those in encoded pixels, and those of a number that nothing
else states. They are counted by what they hit, and nothing else may differ. `make fuzz` changes more bytes.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import pytest
import tifffile
from case_files import PICTURE, jpeg, reduced, write_dicom, write_ndpi, write_svs
from histomake.base.errors import SlideError
from histomake.config import Convert
from histomake.slide.convert import convert
from histomake.slide.reader import SlideReader
from PIL import Image
from pydicom.uid import JPEGBaseline8Bit
from slide_files import write_pyramid

FLIPS = int(os.environ.get("HISTOMAKE_FLIPS", "24"))
"""Changed bytes per format; half of them outside encoded pixels, which are most of a file."""

SECONDS, MEGABYTES = 20, 2048
"""Most time and memory for one file."""

PICTURES = ("a.npy", "a.png")
SETTINGS = Convert(codec="zstd", tile_px=128)


class Outcome(NamedTuple):
    """What a conversion gave: the reason of a refusal, or resolution and levels (width, height, digest of pixels)."""

    refused: str = ""
    mpp: str = ""
    levels: tuple[tuple[int, int, str], ...] = ()

    def lacks_a_level_of(self, truth: Outcome) -> bool:
        """Return whether all is as it was, except that reduced levels are missing."""
        return self.mpp == truth.mpp and self.levels[:1] == truth.levels[:1] and set(self.levels) < set(truth.levels)


def outcome(content: bytes, name: str) -> Outcome:
    """Convert a slide and digest what the store shows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        levels = []
        try:
            mpp = 0.5 if name in PICTURES else None
            manifest = convert(path, Path(folder) / "a.zarr", slide_id="a", config=SETTINGS, mpp=mpp)
            with SlideReader(Path(folder) / "a.zarr") as reader:
                for index, level in enumerate(reader.levels):
                    pixels = reader.read_level(index, 0, 0, level.width, level.height)
                    levels.append((level.width, level.height, hashlib.sha256(pixels.tobytes()).hexdigest()))
        except SlideError as error:
            return Outcome(refused=error.reason)
        mpp = f"{manifest.mpp_x:.6g} x {manifest.mpp_y:.6g}"
        return Outcome("", mpp, tuple(levels))


def peak_megabytes() -> int:
    """Return the largest memory that this process had. Unlike ``ru_maxrss`` it is not inherited from the parent."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM:"))


def write(name: str, folder: Path) -> Path:
    levels = [PICTURE, reduced(PICTURE, 2)]
    path = folder / name
    if name == "a.svs":
        return write_svs(path)
    if name == "a.tif":
        return write_pyramid(path, levels, compression="deflate")
    if name == "a.ome.tif":
        return write_pyramid(path, levels, compression="lzw", subifds=True)
    if name == "a.ndpi":
        return write_ndpi(path)
    if name == "a.npy":
        np.save(path, PICTURE)
        return path
    if name == "a.png":
        Image.fromarray(PICTURE).save(path)
        return path
    return write_dicom(path, syntax=JPEGBaseline8Bit, encode=jpeg, photometric="YBR_FULL_422", positions=True)


NPY_HEADER = 128

Ranges = list[tuple[int, int, str]]

UNSTATED = {
    "XResolution": "resolution",
    "YResolution": "resolution",
    "ResolutionUnit": "resolution",
    "ImageWidth": "size",
    "ImageLength": "size",
    "TileOffsets": "place of a tile",
    "TileByteCounts": "place of a tile",
    "StripOffsets": "place of a tile",
    "StripByteCounts": "place of a tile",
    "ImageDescription": "description",
    "JPEGTables": "pixels",
    "65424": "place of a tile",  # focal plane of an NDPI: OpenSlide makes the level from a finer one
}
"""Tags of which only one place of the file states the value, by what they say."""


def ranges(path: Path) -> Ranges:
    """Return (first byte, end, what they hold) of the parts of a file in which a change cannot be seen."""
    if path.suffix == ".png":
        return []  # every chunk has a checksum
    if path.suffix == ".npy":
        return [(NPY_HEADER, path.stat().st_size, "pixels")]
    return _dicom_ranges(path) if path.suffix == ".dcm" else _tiff_ranges(path)


def _tiff_ranges(path: Path) -> Ranges:
    found: Ranges = []
    with tifffile.TiffFile(path) as tiff:
        pages = [page.aspage() for page in tiff.pages]
        nested = [sub.aspage() for page in pages for sub in page.pages or ()]
        for page in pages + nested:
            places = zip(page.dataoffsets, page.databytecounts, strict=True)
            found += [(offset, offset + count, "pixels") for offset, count in places]
            for tag in page.tags:
                if tag.name in UNSTATED:
                    found.append((tag.offset, tag.offset + 12, UNSTATED[tag.name]))
                    found.append((tag.valueoffset, tag.valueoffset + tag.valuebytecount, UNSTATED[tag.name]))
            if tiff.is_ndpi:  # the upper halves of offsets
                end = page.offset + 2 + 12 * len(page.tags) + 8
                found.append((end, end + 4 * len(page.tags), "place of a tile"))
    return found


def _dicom_ranges(path: Path) -> Ranges:
    with path.open("rb") as stream:
        dataset = pydicom.dcmread(stream, stop_before_pixels=True)
        pixels = stream.tell()
    content = path.read_bytes()
    found: Ranges = [(pixels, len(content), "pixels")]
    spacing = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]["PixelSpacing"]
    fields = {
        "PixelSpacing": ("resolution", 8 + len("\\".join(map(str, spacing.value))) + 1),
        "TotalPixelMatrixRows": ("size", 12),
        "TotalPixelMatrixColumns": ("size", 12),
        "ColumnPositionInTotalImagePixelMatrix": ("place of a tile", 12),
        "RowPositionInTotalImagePixelMatrix": ("place of a tile", 12),
    }
    for keyword, (what, length) in fields.items():
        start = -1
        while 0 <= (start := content.find(_tag_bytes(keyword), start + 1)) < pixels:
            found.append((start, start + length, what))
    return found


def _tag_bytes(keyword: str) -> bytes:
    tag = pydicom.tag.Tag(keyword)
    return tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")


def flips(content: bytes, hidden: Ranges, seed: int) -> Iterator[tuple[int, int]]:
    """Yield positions and new values: half anywhere, half outside encoded pixels."""
    random = np.random.default_rng(seed)
    in_pixels = np.zeros(len(content), bool)
    for start, end, what in hidden:
        in_pixels[start:end] |= what == "pixels"
    outside = np.flatnonzero(~in_pixels)
    for i in range(FLIPS):
        position = int(random.choice(outside)) if i % 2 else int(random.integers(len(content)))
        yield position, content[position] ^ int(random.integers(1, 256))


@pytest.mark.parametrize("name", ["a.svs", "a.tif", "a.ome.tif", "a.dcm", "a.ndpi", *PICTURES])
def test_a_changed_byte_is_reported_or_changes_nothing(name, tmp_path):
    path = write(name, tmp_path)
    content, hidden = path.read_bytes(), ranges(path)
    context = multiprocessing.get_context("spawn")
    told: Counter[str] = Counter()
    unexplained = []
    with ProcessPoolExecutor(1, mp_context=context) as worker:
        truth = worker.submit(outcome, content, name).result()
        assert not truth.refused
        for position, value in flips(content, hidden, seed=sum(name.encode())):
            changed = bytearray(content)
            changed[position] = value
            found = worker.submit(outcome, bytes(changed), name).result(timeout=SECONDS)
            if found.refused:
                told[f"refused: {found.refused}"] += 1
            elif found == truth:
                told["the same"] += 1
            elif found.lacks_a_level_of(truth):
                told["a reduced level less"] += 1
            else:
                what = next((what for start, end, what in hidden if start <= position < end), None)
                told[f"differs: {what}"] += 1
                if what is None:
                    unexplained.append((position, content[position], value))
        assert worker.submit(peak_megabytes).result() < MEGABYTES
    print(f"\n{name}: {dict(told.most_common())}")
    assert not unexplained
