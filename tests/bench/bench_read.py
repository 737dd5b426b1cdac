"""Benchmarks of patch reading against other libraries, the JPEG decoder alone, and patches of a batch one by one."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import openslide
import zarr
from histomake.config import Convert
from histomake.slide.convert import convert
from histomake.slide.reader import SlideReader

from tests.bench.figures import Figure
from tests.bench.measure import ROUNDS, ratio, seconds, side_by_side
from tests.bench.slides import MPP, TILE, big_slide

SIDE = 24_576
PATCHES = 200
BATCH_SIDE = 8
"""Patches along each side of a block of neighbours."""
MEASURED = ("openslide", "cucim", "fastslide", "microtome-wsi")
"""Peers that read all patches in every round. Others are slow, for information only, and read a quarter."""
Places = Sequence[tuple[int, int]]
Read = Callable[[int, int, int], np.ndarray]


def run(work: Path) -> list[Figure]:
    """Return the figures of issue 3's table that concern reading."""
    slide = big_slide(work, SIDE)
    reader = _stored(slide, work)
    figures = []
    for size in (256, 512):
        for threads in (1, 2):
            figures += _random_patches(slide, reader, size, threads)
    figures += _neighbours(reader)
    figures += _aligned(reader)
    figures += _half(slide, reader, "RGB 4:4:4")
    subsampled = big_slide(work, 8_192, colour="YCBCR")
    figures += _half(subsampled, _stored(subsampled, work), "YCbCr 4:2:0")
    return figures


def _stored(slide: Path, work: Path) -> SlideReader:
    store = work / "read" / f"{slide.stem}.zarr"
    convert(slide, store, slide_id=slide.stem, config=Convert(), threads=2)
    return SlideReader(store)


def places(seed: int, side: int, *, count: int = PATCHES, grid: int = 1) -> Places:
    """Return random corners of patches inside the tissue, at multiples of ``grid`` pixels."""
    corners = np.random.default_rng(seed).integers(int(side * 0.2), int(side * 0.78), (count, 2))
    return [(int(x), int(y)) for x, y in corners // grid * grid]


def peers(slide: Path, store: Path) -> dict[str, Read]:
    """Return a function per installed library that reads an RGB patch of level 0."""
    source = openslide.OpenSlide(slide)
    array = zarr.open(store, mode="r")["0"]
    readers: dict[str, Read] = {
        "openslide": lambda x, y, size: np.asarray(source.read_region((x, y), 0, (size, size)).convert("RGB")),
        "zarr-python": lambda x, y, size: np.moveaxis(array[:, y : y + size, x : x + size], 0, -1),
    }
    for name, opener in OPENERS.items():
        try:
            readers[name] = opener(slide)
        except ImportError:
            continue
    for read in readers.values():
        read(0, 0, 1)  # tiffslide parses the file at the first use, which is not thread-safe
    return readers


def _cucim(slide: Path) -> Read:
    image = importlib.import_module("cucim").CuImage(str(slide))
    return lambda x, y, size: np.asarray(image.read_region((x, y), (size, size), level=0))


def _tiffslide(slide: Path) -> Read:
    image = importlib.import_module("tiffslide").TiffSlide(slide)
    return lambda x, y, size: image.read_region((x, y), 0, (size, size), as_array=True)


def _fastslide(slide: Path) -> Read:
    image = importlib.import_module("fastslide").FastSlide.from_file_path(str(slide))
    return lambda x, y, size: image.read_region((x, y), 0, (size, size)).numpy()


def _microtome(slide: Path) -> Read:
    """Cut patches from stored tiles, which are all that microtome-wsi reads."""
    image = importlib.import_module("microtome").open(str(slide))
    across = image.levels[0]["tiles_across"]

    def read(x: int, y: int, size: int) -> np.ndarray:
        columns, rows = (range(at // TILE, -(-(at + size) // TILE)) for at in (x, y))
        tiles = image.read_batch(0, [row * across + column for row in rows for column in columns], threads=1)
        whole = tiles.reshape(len(rows), len(columns), TILE, TILE, 3).swapaxes(1, 2)
        top, left = y - rows[0] * TILE, x - columns[0] * TILE
        return whole.reshape(len(rows) * TILE, -1, 3)[top : top + size, left : left + size]

    return read


OPENERS: dict[str, Callable[[Path], Read]] = {
    "cucim": _cucim,
    "tiffslide": _tiffslide,
    "fastslide": _fastslide,
    "microtome-wsi": _microtome,
}
"""Functions that open a slide with a library that may be missing."""


def walk(read: Read, corners: Places, size: int, threads: int) -> None:
    """Read and discard all patches, on one thread or in equal shares on several."""

    def share(first: int) -> None:
        for x, y in corners[first::threads]:
            read(x, y, size)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(share, range(threads)))


def _random_patches(slide: Path, reader: SlideReader, size: int, threads: int) -> list[Figure]:
    theirs = peers(slide, reader.path)
    took: dict[str, list[float]] = {name: [] for name in ("us", *theirs)}
    for seed in range(ROUNDS):
        corners = places(seed, SIDE)
        took["us"].append(seconds(lambda c=corners: walk(lambda x, y, s: reader.read(x, y, s, MPP), c, size, threads)))
        for name, read in theirs.items():
            fewer = corners if name in MEASURED else corners[::4]
            time = seconds(lambda r=read, c=fewer: walk(r, c, size, threads))
            took[name].append(time * len(corners) / len(fewer))
    rate = f"{PATCHES / statistics.median(took['us']):.0f} patches/s"
    label = f"random {size}² patches, {threads} thread{'s' * (threads > 1)}, us / "
    bars = {"openslide": 2.0, "cucim": 0.9}
    figures = []
    for name in ("openslide", *OPENERS, "zarr-python"):
        if name not in took:
            bar = f">= {bars[name]}" if name in bars else "-"
            figures.append(Figure(label + name, 0.0, bar, name not in bars, "x", f"{name} is not installed"))
            continue
        faster = ratio(took[name], took["us"])
        bar = bars.get(name)
        figures.append(
            Figure(label + name, faster, f">= {bar}" if bar else "-", bar is None or faster >= bar, "x", rate)
        )
    faster, fastest = min((ratio(took[name], took["us"]), name) for name in theirs)
    return [*figures, Figure(f"{label}the fastest", faster, ">= 1.2", faster >= 1.2, "x", fastest)]


def _neighbours(reader: SlideReader) -> list[Figure]:
    """Compare blocks, and rows, of neighbouring patches in one call with the same patches one by one."""
    figures = []
    for columns, rows, bar in ((BATCH_SIDE, BATCH_SIDE, 2.0), (BATCH_SIDE**2, 1, None)):
        blocks = [
            [(x + TILE * i, y + TILE * j) for j in range(rows) for i in range(columns)]
            for x, y in np.random.default_rng(2).integers(SIDE // 5, SIDE // 4, (ROUNDS, 2)).tolist()
        ]

        def one_by_one(blocks: Sequence[Places] = blocks) -> None:
            for block in blocks:
                np.stack([reader.read(x, y, TILE, MPP) for x, y in block])

        def together(blocks: Sequence[Places] = blocks) -> None:
            for block in blocks:
                reader.read_many(block, TILE, MPP)

        alone, batch = side_by_side(one_by_one, together)
        faster = ratio(alone, batch)
        rate = f"{sum(map(len, blocks)) / statistics.median(batch):.0f} patches/s"
        bound = f">= {bar}" if bar else "-"
        name = f"batch of {columns} x {rows} neighbouring 256² patches: one by one / together"
        figures.append(Figure(name, faster, bound, bar is None or faster >= bar, "x", rate))
    return figures


def _aligned(reader: SlideReader) -> list[Figure]:
    level = reader.levels[0]
    corners = places(0, SIDE, grid=TILE)
    files = reader.encoded_tiles(0, [(y // TILE, x // TILE) for x, y in corners])
    data = [file for file in files if file is not None]

    def bare() -> None:
        for file in data:
            level.coding.decode(file, level.tile_shape)

    def patches() -> None:
        for x, y in corners:
            reader.read(x, y, TILE, MPP)

    alone, read = side_by_side(bare, patches)
    share = ratio(alone, read) * len(corners) / len(data)
    note = f"{len(corners) / statistics.median(read):.0f} patches/s"
    return [Figure("tile-aligned 256² patches / bare JPEG decoding", share, ">= 0.8", share >= 0.8, "x", note)]


def _half(slide: Path, reader: SlideReader, label: str) -> list[Figure]:
    """Compare patches at twice the source's µm per pixel, for which there is no level, with full size and resizing.

    Full size is read as in other libraries, every tile as a whole; OpenSlide is included for comparison. Without
    subsampled chroma the bound is hard to reach: four fifths of the time for a reduced tile are entropy decoding,
    which cannot be reduced.
    """
    corners = places(1, reader.width, count=100, grid=2)
    source = openslide.OpenSlide(slide)

    def resized(full: np.ndarray) -> np.ndarray:
        return cv2.resize(full, (256, 256), interpolation=cv2.INTER_AREA)

    def full_size(x: int, y: int) -> np.ndarray:
        left, top = x // TILE * TILE, y // TILE * TILE
        right, bottom = -(-(x + 512) // TILE) * TILE, -(-(y + 512) // TILE) * TILE
        tiles = reader.read_level(0, left, top, right - left, bottom - top)
        return resized(tiles[y - top : y - top + 512, x - left : x - left + 512])

    def by_openslide(x: int, y: int) -> np.ndarray:
        return resized(np.asarray(source.read_region((x, y), 0, (512, 512)).convert("RGB")))

    def directly(x: int, y: int) -> np.ndarray:
        return reader.read(x, y, 256, 2 * MPP)

    ways = (full_size, by_openslide, directly)
    whole, openslides, ours = side_by_side(*(lambda way=way: [way(x, y) for x, y in corners] for way in ways))
    difference = float(np.mean([np.abs(full_size(x, y).astype(int) - directly(x, y)).mean() for x, y in corners]))
    rate = f"{len(corners) / statistics.median(ours):.0f} patches/s; corners on the halved grid, where read() puts them"
    faster = ratio(whole, ours)
    name = f"half resolution, {label}"
    return [
        Figure(
            f"{name}: full size and resizing / us",
            faster,
            ">= 1.5",
            faster >= 1.5,
            "x",
            rate,
        ),
        Figure(f"{name}: openslide and resizing / us", ratio(openslides, ours), "-", True, "x"),
        Figure(f"{name}: mean difference", difference, "<= 2", difference <= 2, "grey levels"),
    ]
