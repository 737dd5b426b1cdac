"""Benchmarks of conversion: time against cp and against OpenSlide to Zarr, memory, and lossless copying."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import dask
import dask.array
import numpy as np
import openslide
import tifffile
import zarr
from histomake.base.files import sha256_file
from histomake.base.records.manifest import Manifest
from histomake.config import Convert
from histomake.slide.convert import convert
from histomake.slide.reader import SlideReader
from histomake.slide.store import Store

from tests.bench.figures import Figure
from tests.bench.measure import ratio, side_by_side
from tests.bench.slides import big_slide

THREADS = 2
CHUNK = 1024
SIDE = 24_576
MEMORY_SIDES = (8_192, 24_576, 49_152)
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def run(work: Path) -> list[Figure]:
    """Return the figures of issue 3's table that concern conversion."""
    slide = big_slide(work, SIDE)
    out = work / "convert"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    try:
        return [*_speed(slide, out), *_identity(slide, out), *_reencoding(work, out), *_memory(work, out)]
    finally:
        shutil.rmtree(out, ignore_errors=True)


def to_store(slide: Path, store: Path) -> Manifest:
    """Convert with the default settings."""
    return convert(slide, store, slide_id=slide.stem, config=Convert(), threads=THREADS)


def through_openslide(slide: Path, store: Path) -> None:
    """Convert without histomake: OpenSlide regions written by Dask to plain Zarr with zstd."""
    source = openslide.OpenSlide(slide)
    width, height = source.dimensions

    def region(block_info: dict | None = None) -> np.ndarray:
        (y0, y1), (x0, x1), _ = block_info[None]["array-location"]
        return np.asarray(source.read_region((x0, y0), 0, (x1 - x0, y1 - y0)))[:, :, :3]

    chunks = dask.array.core.normalize_chunks((CHUNK, CHUNK, 3), (height, width, 3))
    pixels = dask.array.map_blocks(region, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    target = zarr.create_array(
        store, shape=pixels.shape, chunks=(CHUNK, CHUNK, 3), dtype=np.uint8, compressors=zarr.codecs.ZstdCodec()
    )
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        pixels.store(target, lock=False)


def _speed(slide: Path, out: Path) -> list[Figure]:
    def copy_and_hash() -> None:
        shutil.copyfile(slide, out / "copy")
        sha256_file(slide)

    def ours() -> Manifest:
        return to_store(slide, out / "a.zarr")

    manifest = ours()  # the first call also includes late imports
    clear = partial(_clear, out)
    copied, converted = side_by_side(copy_and_hash, ours, before=clear)
    baseline, beside = side_by_side(lambda: through_openslide(slide, out / "b.zarr"), ours, before=clear)
    growth = manifest.bytes_out / manifest.bytes_in
    took = f"{statistics.median(converted):.3f} s, {slide.stat().st_size / 1e6:.0f} MB"
    slower, faster = ratio(converted, copied), ratio(baseline, beside)
    return [
        Figure("convert 24k / (cp + sha256)", slower, "<= 2.0", slower <= 2, "x", took),
        Figure("openslide-dask-zarr / convert 24k", faster, ">= 50", faster >= 50, "x"),
        Figure("store size / source size", growth, "<= 1.02", growth <= 1.02, "x"),
        Figure("store files", manifest.files, "<= 60", manifest.files <= 60, "files"),
    ]


def _clear(out: Path) -> None:
    """Remove the outputs of the previous round, so that removing or truncating them is not timed."""
    shutil.rmtree(out)
    out.mkdir()


def _identity(slide: Path, out: Path) -> list[Figure]:
    store = out / "a.zarr"
    tiles, pixels = _identical_tiles(slide, store), _identical_pixels(slide, store)
    return [
        Figure("tiles identical to the source's bytes", 100 * tiles, ">= 100", tiles == 1, "%"),
        Figure("pixels identical to OpenSlide, every level", 100 * pixels, ">= 100", pixels == 1, "%"),
    ]


def _identical_tiles(slide: Path, path: Path) -> float:
    store, same, total = Store(path), 0, 0
    with tifffile.TiffFile(slide) as tiff, slide.open("rb") as stream:
        for level, page in enumerate(page for page in tiff.pages if page.is_tiled):
            columns = store.levels[level].grid[1]
            for i, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
                stream.seek(offset)
                same += store.tile(level, *divmod(i, columns)) == stream.read(count)
                total += 1
    return same / total


def _identical_pixels(slide: Path, path: Path) -> float:
    same = total = 0
    with openslide.OpenSlide(slide) as theirs, SlideReader(path) as ours:
        for level, (width, height) in enumerate(theirs.level_dimensions):
            downsample = round(theirs.level_downsamples[level])
            for y in range(0, height, CHUNK):
                rows = min(CHUNK, height - y)
                shown = np.asarray(theirs.read_region((0, y * downsample), level, (width, rows)))[:, :, :3]
                same += int(np.all(shown == ours.read_level(level, 0, y, width, rows), axis=2).sum())
                total += width * rows
    return same / total


def _reencoding(work: Path, out: Path) -> list[Figure]:
    slide = work / "lzw-8192.tif"
    if not slide.exists():
        pixels = tifffile.imread(big_slide(work, 8_192), series=0, level=0)
        aside = slide.with_suffix(".partial")
        tifffile.imwrite(aside, pixels, tile=(256, 256), photometric="rgb", compression="lzw", metadata=None)
        aside.replace(slide)

    def encode() -> None:
        convert(slide, out / "c.zarr", slide_id="c", config=Convert(), mpp=0.5, threads=THREADS)

    baseline, encoded = side_by_side(
        lambda: through_openslide(slide, out / "d.zarr"), encode, before=partial(_clear, out)
    )
    faster = ratio(baseline, encoded)
    note = f"8k, {statistics.median(encoded):.2f} s, with a pyramid the baseline does not make"
    return [Figure("openslide-dask-zarr / re-encoding LZW", faster, ">= 1.5", faster >= 1.5, "x", note)]


def _memory(work: Path, out: Path) -> list[Figure]:
    peaks = [_peak(big_slide(work, side), out / "m.zarr") for side in MEMORY_SIDES]
    listed = ", ".join(f"{side // 1000}k {peak:.0f}" for side, peak in zip(MEMORY_SIDES, peaks, strict=True))
    growth = peaks[-1] / peaks[0]
    return [
        Figure("peak memory of convert", max(peaks), "<= 600", max(peaks) <= 600, "MB", listed),
        Figure("peak memory 48k / 8k", growth, "<= 1.25", growth <= 1.25, "x", "flat"),
    ]


def _peak(slide: Path, store: Path) -> float:
    """Return the peak resident memory in MB of a process that converts ``slide``.

    It is read from /proc (Linux), because getrusage would include the memory of the parent process.
    """
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from histomake.config import Convert\nfrom histomake.slide.convert import convert\n"
        f"convert({str(slide)!r}, {str(store)!r}, slide_id='m', config=Convert(), threads={THREADS})\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(result.stdout) / 1024
