"""Owns copying encoded tiles from a slide's file into a store's shards, as they are, and noticing those that are none.

The file is read in its own order, whole runs of tiles at a time; each band of shards is one task, and a thread reads,
checks, hashes and writes a piece of a band while the piece is in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np

from histomake.slide.jpeg import EOI
from histomake.slide.sources.base import DamagedTilesError, FileBytes, TileBytes
from histomake.slide.store import BandWriter, Closed, Level

PIECE_BYTES = 1 << 20

TRAILER = 64
"""Bytes at the end of a tile in which its end marker is looked for: some writers pad."""


def copy_levels(store: Path, copies: Sequence[tuple[Level, TileBytes]], threads: int, closed: Closed) -> list[int]:
    """Copy the tiles of several levels; returns how many tiles the source leaves empty in each.

    DamagedTilesError when tiles do not begin, or end, as the others of their level do.
    """
    checks = [_StreamCheck(level.coding.codec, int(np.count_nonzero(tiles.counts))) for level, tiles in copies]
    pool = ThreadPoolExecutor(threads)
    try:
        tasks = [
            pool.submit(_copy_band, store, level, band, tiles, check, closed)
            for (level, tiles), check in zip(copies, checks, strict=True)
            for band in range(level.shards[0])
        ]
        for task in tasks:
            task.result()
    finally:
        pool.shutdown(cancel_futures=True)
    for check in checks:
        check.finish()
    return [int(np.count_nonzero(tiles.counts == 0)) for _, tiles in copies]


def _copy_band(store: Path, level: Level, band: int, tiles: TileBytes, check: _StreamCheck, closed: Closed) -> None:
    first = band * level.shard_rows
    inner, columns = np.nonzero(tiles.counts[first : first + level.shard_rows])
    rows = first + inner
    offsets, sizes = (array[rows, columns].astype(np.int64) for array in (tiles.offsets, tiles.counts))
    order = np.argsort(offsets, kind="stable")
    rows, columns, offsets, sizes = (array[order] for array in (rows, columns, offsets, sizes))
    pieces = list(_pieces(columns // level.shard_columns, sizes))
    buffer = memoryview(bytearray(max((int(sizes[piece].sum()) for piece in pieces), default=0)))
    with FileBytes(tiles.path) as file, BandWriter(store, level, band, closed) as writer:
        for piece in pieces:
            data = buffer[: int(sizes[piece].sum())]
            _read_tiles(file, offsets[piece], sizes[piece], data)
            check.add(rows[piece], columns[piece], sizes[piece], data)
            writer.append(rows[piece], columns[piece], sizes[piece], data)


def _pieces(shards: np.ndarray, sizes: np.ndarray) -> Iterator[slice]:
    """Neighbours in the file that go to one shard, of about PIECE_BYTES at most."""
    block = np.cumsum(sizes) // PIECE_BYTES
    cuts = np.flatnonzero((shards[1:] != shards[:-1]) | (block[1:] != block[:-1])) + 1
    edges = [0, *cuts.tolist(), len(sizes)]
    return (slice(start, end) for start, end in pairwise(edges) if end > start)


def _read_tiles(file: FileBytes, offsets: np.ndarray, sizes: np.ndarray, out: memoryview) -> None:
    """Fill ``out`` with several tiles back to back: one read for each stretch that is contiguous in the file."""
    breaks = np.flatnonzero(offsets[1:] != offsets[:-1] + sizes[:-1]) + 1
    position = 0
    for first, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(offsets)], strict=True):
        length = int(sizes[first:end].sum())
        file.read_into(int(offsets[first]), out[position : position + length])
        position += length


class _StreamCheck:
    """Finds tiles whose first or last bytes are not those of the codec, without decoding any; threads may share it."""

    def __init__(self, codec: str, total: int) -> None:
        self._codec = codec
        self._total = total
        self._bad: list[tuple[int, int]] = []
        self._unended: list[tuple[int, int]] = []

    def add(self, rows: np.ndarray, columns: np.ndarray, sizes: np.ndarray, data: memoryview) -> None:
        """Look at tiles that lie back to back in ``data``."""
        view = np.frombuffer(data, np.uint8)
        ends = np.cumsum(sizes)
        starts = ends - sizes
        head = view[starts].astype(np.uint16) << 8 | view[np.minimum(starts + 1, len(view) - 1)]
        bad = (head != 0xFFD8) if self._codec == "jpeg" else (head != 0xFF4F) & (head != 0x0000)
        self._bad.extend((int(rows[i]), int(columns[i])) for i in np.flatnonzero(bad))
        tail = view[np.maximum(ends - 2, 0)].astype(np.uint16) << 8 | view[ends - 1]
        for i in np.flatnonzero(tail != 0xFFD9):
            if EOI not in bytes(data[max(int(starts[i]), int(ends[i]) - TRAILER) : int(ends[i])]):
                self._unended.append((int(rows[i]), int(columns[i])))

    def finish(self) -> None:
        """Raise DamagedTilesError when something was found; a writer that never ends its tiles is believed."""
        bad = set(self._bad + (self._unended if len(self._unended) < self._total / 2 else []))
        if bad:
            listed = ", ".join(f"row {r} column {c}" for r, c in sorted(bad)[:5])
            raise DamagedTilesError(f"{len(bad)} of {self._total} tiles are no {self._codec} streams: {listed}")
