"""Owns turning a slide file into a store: encoded tiles copied where possible, encoded again where not."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import dask
import numpy as np

from histomake import config as settings
from histomake.errors import Reason, SlideError
from histomake.files import HASH_BLOCK, SYNC_THREADS, atomic_directory, atomic_file, sha256_file, sync_file
from histomake.slide.codec import TileCoding
from histomake.slide.jpeg import EOI
from histomake.slide.reader import SlideReader
from histomake.slide.source import Resolution, combined_sha256, named_files, open_source, quarantining, resolve_mpp
from histomake.slide.sources.base import (
    PARSE_ERRORS,
    DamagedTilesError,
    FileBytes,
    Source,
    SourceLevel,
    TileBytes,
    UnsupportedSlideError,
)
from histomake.slide.store import FILL, Level, LevelWriter, dump_json, image_metadata

PYRAMID_TOP_PX = 1024
"""Halving stops when a level's longer side is at most this."""

EXTEND_ABOVE_PX = 4096
"""A slide that has a pyramid gets further levels only when its coarsest one is longer than this."""

HALVINGS = 3
"""Levels made from one decoded block: fewer decodes and less repeated JPEG loss than halving level by level."""

BLOCK_TILES = 1 << HALVINGS
BLOCK_BYTES = 1 << 27
"""Largest decoded block: wide strips, decoded whole, get flatter blocks and fewer halvings."""

BLOCKS_PER_THREAD = 4

TRAILER = 64
"""Bytes at the end of a tile in which its end marker is looked for: some writers pad."""

SHOWS_LABEL = ("label", "macro")
"""Associated images with the glass's label on them, and the patient's name on that."""

Read = Callable[[int, int, int, int], np.ndarray]


def convert(
    source: Path | str,
    store: Path | str,
    *,
    slide_id: str,
    config: settings.Convert,
    mpp: float | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Convert one slide; the store appears whole or not at all. Returns the manifest.

    ``mpp`` is the sheet's override in µm per pixel. With ``config.store: zip`` the store is one file,
    ``<store>.zip``. SlideError when the slide cannot be used; OSError when the disk is full.
    """
    source, store = Path(source), Path(store)
    started = time.perf_counter()
    with open_source(source, slide_id=slide_id) as slide, quarantining(slide_id, source):
        resolution = resolve_mpp(slide.info, mpp, slide_id=slide_id, path=source)
        opened = time.perf_counter()
        with (
            _SourceHash(slide, slide_id) as source_hash,
            atomic_directory(store) as aside,
            _Writing(slide, aside, config, threads, slide_id, resolution) as writing,
        ):
            writing.write()
            written = time.perf_counter()
            sha256, checksums = source_hash.result(), writing.checksums()
        packed = store.with_name(f"{store.name}.zip")
        if config.store == "zip":
            _pack(store, packed)
            store, checksums = packed, {packed.name: sha256_file(packed)}
        else:
            packed.unlink(missing_ok=True)  # of an earlier run with the other setting
    done = time.perf_counter()
    seconds = {"open": opened - started, "tiles": written - opened, "commit": done - written, "total": done - started}
    return _manifest(writing, store, sha256=sha256, checksums=checksums, seconds=seconds)


def plan_levels(source: Sequence[SourceLevel], config: settings.Convert) -> list[Level]:
    """The levels of the store: those of the source, then halvings of the coarsest where a pyramid is missing."""
    levels = [_layout(level, source[0], f"{i}", config) for i, level in enumerate(source)]
    longest = max(levels[-1].width, levels[-1].height)
    if len(levels) > 1 and longest <= EXTEND_ABOVE_PX:
        return levels
    while max(levels[-1].width, levels[-1].height) > PYRAMID_TOP_PX:
        last = levels[-1]
        half = SourceLevel(-(-last.width // 2), -(-last.height // 2), config.tile_px, config.tile_px)
        layout = _layout(half, source[0], f"{len(levels)}", config)
        levels.append(replace(layout, downsample=last.downsample * 2))
    return levels


def _layout(level: SourceLevel, finest: SourceLevel, path: str, config: settings.Convert) -> Level:
    copied = level.coding is not None
    tile_width, tile_height = (level.tile_width, level.tile_height) if copied else (config.tile_px, config.tile_px)
    quality = None if config.codec == "zstd" else config.quality
    layout = Level(
        path=path,
        width=level.width,
        height=level.height,
        tile_width=tile_width,
        tile_height=tile_height,
        shard_rows=1,
        shard_columns=1,
        downsample=downsample_between(finest, level),
        coding=level.coding or TileCoding(config.codec, quality=quality),
    )
    rows, columns = layout.grid
    return replace(
        layout,
        shard_rows=_shard_tiles(rows, config.shard_px // tile_height),
        shard_columns=_shard_tiles(columns, config.shard_px // tile_width),
    )


def _shard_tiles(grid: int, wanted: int) -> int:
    """Tiles along a shard: a multiple of a block's tiles, so that a block never straddles two bands of shards."""
    wanted = max(BLOCK_TILES, wanted // BLOCK_TILES * BLOCK_TILES)
    return min(wanted, -(-grid // BLOCK_TILES) * BLOCK_TILES)


def downsample_between(finest: SourceLevel, level: SourceLevel) -> float:
    """How many finest pixels a pixel of ``level`` spans along each side.

    Scanners shrink by whole factors and drop or add the last partial pixel, so width / width gives figures such as
    16.0018, which shift the far edge by whole pixels: a whole factor that explains both sides to a pixel wins.
    """
    ratios = finest.width / level.width, finest.height / level.height
    factor = round(sum(ratios) / 2)
    sides = ((finest.width, level.width), (finest.height, level.height))
    if factor >= 1 and all(abs(full / factor - part) < 1 for full, part in sides):
        return float(factor)
    return sum(ratios) / 2


class _SourceHash:
    """sha256 of the source's bytes, computed in a thread beside the copy, which has just read them into the cache."""

    def __init__(self, slide: Source, slide_id: str) -> None:
        self._slide, self._slide_id = slide, slide_id
        self._files = named_files(slide.path, slide.files)
        self._before = self._stamps()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._hashes = {name: self._pool.submit(self._hash, path) for name, path in self._files.items()}

    def _stamps(self) -> list[tuple[int, int]]:
        return [(s.st_size, s.st_mtime_ns) for s in (path.stat() for path in self._files.values())]

    def _hash(self, path: Path) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(HASH_BLOCK))
        with path.open("rb", buffering=0) as stream:
            while not self._stop.is_set() and (count := stream.readinto(buffer)):
                digest.update(buffer[:count])
        return digest.hexdigest()

    def __enter__(self) -> _SourceHash:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def result(self) -> str:
        """The hash; SlideError when the slide changed while it was read."""
        try:
            hashes = {name: future.result() for name, future in self._hashes.items()}
            if self._stamps() == self._before:
                return combined_sha256(hashes)
            detail = "its size or time changed"
        except OSError as error:
            detail = str(error)
        raise SlideError(
            Reason.UNREADABLE,
            slide_id=self._slide_id,
            path=self._slide.path,
            detail=f"the slide changed while it was read: {detail}",
            remedy="Wait until the scanner or the copy has finished writing it",
        )


@dataclass(frozen=True)
class _Row:
    """Encoded neighbours of one row of tiles: columns, sizes in bytes, and the bytes back to back."""

    row: int
    columns: np.ndarray
    sizes: np.ndarray
    data: bytes


class _Writing:
    """One store being filled, level after level."""

    def __init__(
        self,
        slide: Source,
        store: Path,
        config: settings.Convert,
        threads: int,
        slide_id: str,
        resolution: Resolution,
    ) -> None:
        self.slide, self.store, self.config, self.threads = slide, store, config, threads
        self.slide_id, self.resolution = slide_id, resolution
        self.levels = plan_levels(slide.info.levels, config)
        self.empty_tiles = [0] * len(self.levels)
        self.written = 0
        self.associated: dict[str, str] = {}
        self._hashes: dict[str, str] = {}
        self._hashing = ThreadPoolExecutor(1)
        # Finished shards go to the disk while the next ones are written, so that little is left to wait for.
        self._syncing = ThreadPoolExecutor(SYNC_THREADS)
        self._synced: list[Future[None]] = []

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._hashing, self._syncing):
            pool.shutdown(cancel_futures=True)

    def _closed(self, path: Path, sha256: str) -> None:
        self._hashes[path.relative_to(self.store).as_posix()] = sha256
        self._synced.append(self._syncing.submit(sync_file, path))

    def checksums(self) -> dict[str, str]:
        """sha256 of every file of the store, by its path inside it; OSError where one did not reach the disk."""
        for future in self._synced:
            future.result()
        metadata = {path.relative_to(self.store).as_posix(): path for path in self.store.rglob("zarr.json")}
        return dict(sorted({**self._hashes, **{key: sha256_file(path) for key, path in metadata.items()}}.items()))

    def write(self) -> None:
        """Fill the store and write its metadata."""
        originals = self.slide.info.levels
        for index, original in enumerate(originals):
            if original.coding is not None:
                writer = LevelWriter(self.store, self.levels[index], self._hashing, self._closed)
                self.empty_tiles[index] = copy_tiles(self.slide.tile_bytes(index), writer)
                self._finish(index + 1)
                continue
            last = len(self.levels) if index + 1 == len(originals) else index + 1
            self._encode(partial(self.slide.read, index), original, index, self.levels[index:last], halved=0)
        while self.written < len(self.levels):
            # Pixels of the level above come from its stored tiles, through the same reader as everyone's.
            base = self.written - 1
            stored = SourceLevel(self.levels[base].width, self.levels[base].height, 1, 1)
            with SlideReader(self.store, slide_id=self.slide_id) as reader:
                try:
                    read = partial(reader.read_level, base)
                    self._encode(read, stored, self.written, self.levels[self.written :], halved=1)
                except SlideError as error:  # what was just copied from the source is damaged
                    raise DamagedTilesError(error.detail) from error
        for name, read in self.slide.associated().items():
            self.associated[name] = self._add_associated(name, read)

    def _add_associated(self, name: str, read: Callable[[], np.ndarray]) -> str:
        """Store a small image beside the levels; returns what became of it."""
        if name in SHOWS_LABEL and not self.config.keep_label_image:
            return "left out: it may show the patient's name"
        try:
            pixels = read()
        except (*PARSE_ERRORS, DamagedTilesError, UnsupportedSlideError) as error:
            return f"left out: it cannot be read ({error})"
        picture = SourceLevel(pixels.shape[1], pixels.shape[0], self.config.tile_px, self.config.tile_px)
        level = _layout(picture, picture, f"associated/{name}", self.config)
        with LevelWriter(self.store, level, self._hashing, self._closed) as writer:
            for row in _encode_tiles(pixels, level, 0, 0):
                writer.append(row.row, row.columns, row.sizes, row.data)
        dump_json(self.store / level.path / "zarr.json", level.metadata())
        dump_json(self.store / "associated" / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {}})
        return "stored"

    def _encode(self, read: Read, base: SourceLevel, first: int, levels: list[Level], *, halved: int) -> None:
        """Write as many of ``levels`` as one decoding of ``base`` yields; ``first`` is the index of the first."""
        width, height, halvings = _block_size(base, self.config.tile_px)
        levels = levels[: halvings + 1 - halved]
        blocks = list(_blocks(base.width, base.height, width, height))
        counts = [0] * len(levels)
        writers = [LevelWriter(self.store, level, self._hashing, self._closed) for level in levels]
        with ExitStack() as stack:
            for writer in writers:
                stack.enter_context(writer)
            batch = self.threads * BLOCKS_PER_THREAD
            for start in range(0, len(blocks), batch):
                tasks = [
                    dask.delayed(_encode_block)(read, box, levels, halved) for box in blocks[start : start + batch]
                ]
                scheduler = "threads" if self.threads > 1 else "synchronous"
                for encoded in dask.compute(*tasks, scheduler=scheduler, num_workers=self.threads):
                    for i, rows in enumerate(encoded):
                        for row in rows:
                            counts[i] += len(row.columns)
                            writers[i].append(row.row, row.columns, row.sizes, row.data)
        for i, level in enumerate(levels):
            self.empty_tiles[first + i] = level.grid[0] * level.grid[1] - counts[i]
        self._finish(first + len(levels))

    def _finish(self, written: int) -> None:
        """Write the metadata of the levels there are."""
        for level in self.levels[self.written : written]:
            dump_json(self.store / level.path / "zarr.json", level.metadata())
        self.written = written
        levels = self.levels[:written]
        mpp = self.resolution.x, self.resolution.y
        attributes = {
            "slide_id": self.slide_id,
            "mpp": self.resolution.mpp,
            "mpp_source": self.resolution.origin,
            "downsamples": [level.downsample for level in levels],
        }
        metadata = image_metadata(levels, name=self.slide_id, mpp=mpp, attributes=attributes)
        dump_json(self.store / "zarr.json", metadata)


def _block_size(base: SourceLevel, tile_px: int) -> tuple[int, int, int]:
    """Width, height and number of halvings of the blocks in which ``base`` is decoded."""
    halvings = HALVINGS
    while True:
        edge = tile_px << halvings
        width = -(-max(base.tile_width, edge) // edge) * edge
        if halvings == 1 or width * edge * 3 <= BLOCK_BYTES:
            return width, edge, halvings
        halvings -= 1


def _blocks(width: int, height: int, step_x: int, step_y: int) -> Iterator[tuple[int, int, int, int]]:
    for y in range(0, height, step_y):
        for x in range(0, width, step_x):
            yield x, y, min(step_x, width - x), min(step_y, height - y)


def _encode_block(read: Read, box: tuple[int, int, int, int], levels: list[Level], halved: int) -> list[list[_Row]]:
    """Decode one block and encode its tiles for each of ``levels``, each half the size of the one before."""
    x, y, _, _ = box
    pixels = read(*box)
    encoded = []
    for step, level in enumerate(levels, start=halved):
        if step:
            pixels = halve(pixels)
        encoded.append(_encode_tiles(pixels, level, (x >> step) // level.tile_width, (y >> step) // level.tile_height))
    return encoded


def halve(pixels: np.ndarray) -> np.ndarray:
    """Half the size by 2 x 2 means; an odd last row or column is repeated first, so sizes round up."""
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    size = (pixels.shape[1] // 2, pixels.shape[0] // 2)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _encode_tiles(pixels: np.ndarray, level: Level, first_column: int, first_row: int) -> list[_Row]:
    """Encode a block's tiles; all-white ones are left out, since white is the store's fill value."""
    rows = []
    for i, top in enumerate(range(0, pixels.shape[0], level.tile_height)):
        columns, parts = [], []
        for j, left in enumerate(range(0, pixels.shape[1], level.tile_width)):
            tile = pixels[top : top + level.tile_height, left : left + level.tile_width]
            if tile.min() == FILL:
                continue
            missing = level.tile_height - tile.shape[0], level.tile_width - tile.shape[1]
            if any(missing):
                tile = np.pad(tile, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
            columns.append(first_column + j)
            parts.append(level.coding.encode(tile))
        if columns:
            rows.extend(_split_by_shard(first_row + i, np.array(columns), parts, level))
    return rows


def _split_by_shard(row: int, columns: np.ndarray, parts: list[bytes], level: Level) -> Iterator[_Row]:
    for shard in np.unique(columns // level.shard_columns):
        chosen = np.flatnonzero(columns // level.shard_columns == shard)
        tiles = [parts[i] for i in chosen]
        yield _Row(row, columns[chosen], np.array([len(t) for t in tiles]), b"".join(tiles))


def copy_tiles(tiles: TileBytes, writer: LevelWriter) -> int:
    """Copy the encoded tiles of a level as they are; returns how many the source leaves empty.

    Tiles are read in file order, whole runs at a time, a band of shards being written side by side.
    DamagedTilesError when tiles do not begin, or end, as the others do.
    """
    level = writer.level
    file = FileBytes(tiles.path)
    check = _StreamCheck(level.coding.codec)
    buffers = _Buffers()
    try:
        with writer:
            for row in range(level.grid[0]):
                for start in range(0, level.grid[1], level.shard_columns):
                    columns = start + np.flatnonzero(tiles.counts[row, start : start + level.shard_columns])
                    if len(columns):
                        sizes = tiles.counts[row, columns]
                        data = buffers.take(int(sizes.sum()))
                        _read_run(file, tiles.offsets[row, columns], sizes, data)
                        check.add(row, columns, sizes, data)
                        buffers.busy(writer.append(row, columns, sizes, data))
    finally:
        file.close()
    check.finish()
    return int(np.count_nonzero(tiles.counts == 0))


class _Buffers:
    """Two buffers in turn: one is filled while the other is still being hashed."""

    def __init__(self) -> None:
        self._buffers = [bytearray(), bytearray()]
        self._users: list[Future[None] | None] = [None, None]

    def take(self, size: int) -> memoryview:
        """The buffer that was used before last, once nobody uses it."""
        for both in (self._buffers, self._users):
            both.reverse()
        if self._users[0] is not None:
            self._users[0].result()
        if len(self._buffers[0]) < size:
            self._buffers[0] = bytearray(size)
        return memoryview(self._buffers[0])[:size]

    def busy(self, user: Future[None]) -> None:
        """The buffer taken last must not be filled again before ``user`` is done."""
        self._users[0] = user


def _read_run(file: FileBytes, offsets: np.ndarray, sizes: np.ndarray, out: memoryview) -> None:
    """Fill ``out`` with several tiles back to back: one read for each stretch that is contiguous in the file."""
    breaks = np.flatnonzero(offsets[1:] != offsets[:-1] + sizes[:-1]) + 1
    position = 0
    for first, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(offsets)], strict=True):
        length = int(sizes[first:end].sum())
        file.read_into(int(offsets[first]), out[position : position + length])
        position += length


class _StreamCheck:
    """Finds tiles whose first or last bytes are not those of the codec, without decoding any."""

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._bad: list[tuple[int, int]] = []
        self._unended: list[tuple[int, int]] = []
        self._total = 0

    def add(self, row: int, columns: np.ndarray, sizes: np.ndarray, data: memoryview) -> None:
        """Look at tiles that lie back to back in ``data``."""
        view = np.frombuffer(data, np.uint8)
        ends = np.cumsum(sizes).astype(np.int64)
        starts = ends - sizes.astype(np.int64)
        self._total += len(columns)
        head = view[starts].astype(np.uint16) << 8 | view[np.minimum(starts + 1, len(view) - 1)]
        bad = (head != 0xFFD8) if self._codec == "jpeg" else (head != 0xFF4F) & (head != 0x0000)
        self._bad += [(row, int(c)) for c in columns[bad]]
        tail = view[np.maximum(ends - 2, 0)].astype(np.uint16) << 8 | view[ends - 1]
        for i in np.flatnonzero(tail != 0xFFD9):
            if EOI not in bytes(data[max(int(starts[i]), int(ends[i]) - TRAILER) : int(ends[i])]):
                self._unended.append((row, int(columns[i])))

    def finish(self) -> None:
        """Raise DamagedTilesError when something was found; a writer that never ends its tiles is believed."""
        bad = self._bad + (self._unended if len(self._unended) < self._total / 2 else [])
        if bad:
            listed = ", ".join(f"row {r} column {c}" for r, c in sorted(set(bad))[:5])
            raise DamagedTilesError(f"{len(set(bad))} of {self._total} tiles are no {self._codec} streams: {listed}")


def _pack(store: Path, packed: Path) -> None:
    """Turn a directory store into one uncompressed zip."""
    with atomic_file(packed) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        # OME-Zarr zip files begin with the group's metadata, so that a reader finds it at once.
        for file in sorted(store.rglob("*"), key=lambda p: (p.name != "zarr.json", p)):
            if file.is_file():
                archive.write(file, file.relative_to(store).as_posix())
    shutil.rmtree(store)


def _manifest(
    writing: _Writing, store: Path, *, sha256: str, checksums: dict[str, str], seconds: dict[str, float]
) -> dict[str, Any]:
    info, resolution, finest = writing.slide.info, writing.resolution, writing.levels[0]
    files = [p for p in store.rglob("*") if p.is_file()] if store.is_dir() else [store]
    originals = [level.coding is not None for level in info.levels]
    passthrough = originals + [False] * (len(writing.levels) - len(originals))
    levels = [
        {
            "path": level.path,
            "width": level.width,
            "height": level.height,
            "downsample": level.downsample,
            "mpp": resolution.mpp * level.downsample,
            "codec": level.coding.codec,
            "passthrough": copied,
            "empty_tiles": empty,
        }
        for level, copied, empty in zip(writing.levels, passthrough, writing.empty_tiles, strict=True)
    ]
    return {
        "status": "ok",
        "slide_id": writing.slide_id,
        "store": store.name,
        "width": finest.width,
        "height": finest.height,
        "mpp": resolution.mpp,
        "mpp_x": resolution.x,
        "mpp_y": resolution.y,
        "mpp_source": resolution.origin,
        "levels": levels,
        "bounds": None if info.bounds is None else dict(zip(("x", "y", "width", "height"), info.bounds, strict=True)),
        "associated": writing.associated,
        "sha256": sha256,
        "checksums": checksums,
        "bytes_in": sum(p.stat().st_size for p in writing.slide.files),
        "bytes_out": sum(p.stat().st_size for p in files),
        "files": len(files),
        "vendor": info.vendor,
        "format": info.family,
        "properties": info.properties,
        "seconds": {stage: round(value, 4) for stage, value in seconds.items()},
    }
