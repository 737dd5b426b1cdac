"""Multithreaded, block-wise encoding of the levels that cannot be copied or that the source lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import dask
import numpy as np
from dask.local import get_sync
from dask.threaded import get as get_threaded

from histomake.slide.sources.base import SourceLevel
from histomake.slide.store import FILL, LevelWriter, OnShardClosed, StoreLevel

HALVINGS = 3
"""Levels made from one decoded block. Halving level by level would decode more often and add JPEG loss each time."""

BLOCK_TILES = 1 << HALVINGS
BLOCK_BYTES = 1 << 27
"""Largest decoded block. Wide strips that are decoded whole get blocks of fewer rows and fewer halvings."""

BLOCKS_PER_THREAD = 4

Read = Callable[[int, int, int, int], np.ndarray]
Holds = Callable[[int, int, int, int], bool]


@dataclass(frozen=True)
class _Row:
    """Encoded tiles of one row that lie side by side: columns, sizes in bytes, and the concatenated bytes."""

    row: int
    columns: np.ndarray
    sizes: np.ndarray
    data: bytes


def encode_levels(
    store: Path,
    levels: Sequence[StoreLevel],
    read: Read,
    base: SourceLevel,
    *,
    halved: int,
    tile_px: int,
    threads: int,
    on_closed: OnShardClosed,
    holds: Holds,
) -> list[int]:
    """Write as many of ``levels`` as one decoding of ``base`` yields; return the number of empty tiles of each.

    Args:
        store: Path of the store.
        levels: Levels to write. The first has 1 / 2^``halved`` of the size of ``base``; each other level has half
            the size of the one before it.
        read: Function that returns the pixels of a box (x, y, width, height) of ``base``.
        base: Level from which the pixels are read.
        halved: Number of halvings between ``base`` and the first of ``levels``.
        tile_px: Edge of a tile in pixels.
        threads: Number of threads.
        on_closed: Callback for each finished shard.
        holds: Function that returns whether a box of ``base`` has pixels; others are white and not read.
    """
    width, height, halvings = _block_size(base, tile_px)
    levels = list(levels[: halvings + 1 - halved])
    blocks = [box for box in _blocks(base.width, base.height, width, height) if holds(*box)]
    empty = [level.grid[0] * level.grid[1] for level in levels]
    # As functions, because given a name dask imports its distributed scheduler to look for one that runs.
    scheduler = get_threaded if threads > 1 else get_sync
    with ExitStack() as stack:
        writers = [stack.enter_context(LevelWriter(store, level, on_closed)) for level in levels]
        batch = threads * BLOCKS_PER_THREAD
        for start in range(0, len(blocks), batch):
            tasks = [dask.delayed(_encode_block)(read, box, levels, halved) for box in blocks[start : start + batch]]
            for encoded in dask.compute(*tasks, scheduler=scheduler, num_workers=threads):
                for i, rows in enumerate(encoded):
                    empty[i] -= _append(writers[i], rows)
    return empty


def holding(present: np.ndarray | None, tile_width: int, tile_height: int) -> Holds:
    """Return a function that says whether a box touches a tile of ``present``, bool (rows, columns); None: all are."""

    def holds(x: int, y: int, width: int, height: int) -> bool:
        if present is None:
            return True
        rows = slice(y // tile_height, -(-(y + height) // tile_height))
        return bool(present[rows, x // tile_width : -(-(x + width) // tile_width)].any())

    return holds


def encode_picture(store: Path, level: StoreLevel, pixels: np.ndarray, on_closed: OnShardClosed) -> None:
    """Write a level whose pixels are all in memory."""
    with LevelWriter(store, level, on_closed) as writer:
        _append(writer, _encode_tiles(pixels, level, 0, 0))


def _append(writer: LevelWriter, rows: list[_Row]) -> int:
    """Write encoded rows of tiles; return the number of tiles."""
    for row in rows:
        writer.append(row.row, row.columns, row.sizes, row.data)
    return sum(len(row.columns) for row in rows)


def _block_size(base: SourceLevel, tile_px: int) -> tuple[int, int, int]:
    """Return width, height and number of halvings of the blocks in which ``base`` is decoded."""
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


def _encode_block(
    read: Read, box: tuple[int, int, int, int], levels: list[StoreLevel], halved: int
) -> list[list[_Row]]:
    """Decode one block and encode its tiles for each of ``levels``; each level has half the size of the previous."""
    x, y, _, _ = box
    pixels = read(*box)
    encoded = []
    for step, level in enumerate(levels, start=halved):
        if step:
            pixels = halve(pixels)
        encoded.append(_encode_tiles(pixels, level, (x >> step) // level.tile_width, (y >> step) // level.tile_height))
    return encoded


def halve(pixels: np.ndarray) -> np.ndarray:
    """Halve an image by 2 x 2 means. An odd last row or column is repeated first, so sizes are rounded up."""
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    size = (pixels.shape[1] // 2, pixels.shape[0] // 2)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _encode_tiles(pixels: np.ndarray, level: StoreLevel, first_column: int, first_row: int) -> list[_Row]:
    """Encode the tiles of a block. White tiles are left out because white is the fill value of the store."""
    rows: list[_Row] = []
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


def _split_by_shard(row: int, columns: np.ndarray, parts: list[bytes], level: StoreLevel) -> Iterator[_Row]:
    for shard in np.unique(columns // level.shard_columns):
        chosen = np.flatnonzero(columns // level.shard_columns == shard)
        tiles = [parts[i] for i in chosen]
        yield _Row(row, columns[chosen], np.array([len(t) for t in tiles]), b"".join(tiles))
