"""Copying of encoded tiles from a slide file into the shards of a store, with a check that they are valid streams.

Each shard is one task: a thread reads a piece of the file, then checks, hashes and writes it while it is in the CPU
cache. Shards that lie side by side on the slide (a band) are interleaved in the file, so each band is prefetched as a
whole.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise, product, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from histomake.slide import jpeg, jpeg2000
from histomake.slide.codec import Codec
from histomake.slide.jpeg import EOI, Colour, JpegStreamError, stated_colour
from histomake.slide.sources.base import DamagedTilesError, FileBytes, TileBytes, UnsupportedSlideError
from histomake.slide.store import OnShardClosed, ShardWriter, StoreLevel

PIECE_BYTES = 1 << 20

SIZED_HEADS = {"jpeg": jpeg.sized_head, "jpeg2k": jpeg2000.sized_head}
"""By codec, the function that returns the first bytes of a stream, as far as its size, and the size."""

TEXT_SPANS: dict[str, Callable[[bytes], list[tuple[int, int]]]] = {"jpeg": jpeg.text_spans, "jpeg2k": lambda _: []}
"""By codec, the function that returns (start, end) of the parts of a stream that can hold text."""

MOST_HEADS = 16
"""Kinds of headers that are remembered."""

TRAILER = 64
"""Number of bytes at the end of a tile that are searched for the end marker, because some writers add padding."""


@dataclass(frozen=True)
class Copy:
    """A level whose encoded tiles are copied.

    Attributes:
        level: Level of the store.
        tiles: Byte ranges of the tiles in the source.
        gaps: Tiles that the source lacks and that are made, bool (rows, columns), or None.
        make: Function that returns an encoded tile for a row and column of ``gaps``.
    """

    level: StoreLevel
    tiles: TileBytes
    gaps: np.ndarray | None
    make: Callable[[int, int], bytes]


def copy_levels(store: Path, copies: Sequence[Copy], threads: int, on_closed: OnShardClosed) -> list[int]:
    """Copy the tiles of several levels; return the number of tiles of each that stay empty.

    Raises DamagedTilesError if the header or the last bytes of a tile do not fit the codec and size of its level, and
    UnsupportedSlideError if tiles of one level state different colour spaces.
    """
    checks = [_StreamCheck(copy.level, int(np.count_nonzero(copy.tiles.counts))) for copy in copies]
    pool = ThreadPoolExecutor(threads)
    try:
        tasks = []
        for copy, check in zip(copies, checks, strict=True):
            for row, column in product(*map(range, copy.level.shards)):
                if column == 0:
                    tasks.append(pool.submit(_fetch_band, copy.level, row, copy.tiles))
                tasks.append(pool.submit(_copy_shard, store, copy, (row, column), check, on_closed))
        for task in tasks:
            task.result()
    finally:
        pool.shutdown(cancel_futures=True)
    for check in checks:
        check.finish()
    absent = (int(np.count_nonzero(copy.tiles.counts == 0)) for copy in copies)
    return [count - filled(copy.gaps) for count, copy in zip(absent, copies, strict=True)]


def filled(gaps: np.ndarray | None) -> int:
    """Return the number of tiles that are made."""
    return 0 if gaps is None else int(np.count_nonzero(gaps))


def _fetch_band(level: StoreLevel, row: int, tiles: TileBytes) -> None:
    """Prefetch the part of the file with one row of shards sequentially, before the shard tasks read it at random."""
    band = slice(row * level.shard_rows, (row + 1) * level.shard_rows)
    offsets, sizes = tiles.offsets[band].astype(np.int64), tiles.counts[band].astype(np.int64)
    if sizes.any():
        first, end = int(offsets[sizes > 0].min()), int((offsets + sizes)[sizes > 0].max())
        with FileBytes(tiles.path) as file:
            file.fetch(first, end - first)


def _copy_shard(store: Path, copy: Copy, place: tuple[int, int], check: _StreamCheck, on_closed: OnShardClosed) -> None:
    """Copy the tiles of the shard at ``place`` (row, column) in the order in which they lie in the file."""
    level, tiles = copy.level, copy.tiles
    top, left = place[0] * level.shard_rows, place[1] * level.shard_columns
    box = slice(top, top + level.shard_rows), slice(left, left + level.shard_columns)
    rows, columns = np.nonzero(tiles.counts[box])
    offsets, sizes = (array[box][rows, columns].astype(np.int64) for array in (tiles.offsets, tiles.counts))
    order = np.argsort(offsets, kind="stable")
    rows, columns, offsets, sizes = (array[order] for array in (rows, columns, offsets, sizes))
    pieces = list(_pieces(sizes))
    made = [] if copy.gaps is None else np.argwhere(copy.gaps[box]).tolist()
    if not pieces and not made:
        return
    buffer = bytearray(max((int(sizes[piece].sum()) for piece in pieces), default=0))
    path = store / level.shard_key(*place)
    with FileBytes(tiles.path) as file, ShardWriter(path, level.shard_rows, level.shard_columns) as writer:
        for piece in pieces:
            data = memoryview(buffer)[: int(sizes[piece].sum())]
            _read_tiles(file, offsets[piece], sizes[piece], data)
            texts = check.add(top + rows[piece], left + columns[piece], sizes[piece], buffer)
            kept_sizes, kept = _without_texts(sizes[piece], data, texts) if texts else (sizes[piece], data)
            writer.append(rows[piece], columns[piece], kept_sizes, kept)
        for row, column in made:
            tile = copy.make(top + row, left + column)
            writer.append(row, np.array([column]), np.array([len(tile)]), tile)
    on_closed(path, writer.sha256)


def _without_texts(sizes: np.ndarray, data: memoryview, heads: dict[int, TileHead]) -> tuple[np.ndarray, bytes]:
    """Return the sizes and the concatenated bytes of tiles, some of which begin with a head that has texts."""
    ends = np.cumsum(sizes).tolist()
    tiles = [bytes(data[end - size : end]) for end, size in zip(ends, sizes.tolist(), strict=True)]
    for i, head in heads.items():
        tiles[i] = head.without_texts + tiles[i][len(head.given) :]
    return np.array(list(map(len, tiles)), np.int64), b"".join(tiles)


def _pieces(sizes: np.ndarray) -> Iterator[slice]:
    """Yield slices of tiles that are neighbours in the file, each of about PIECE_BYTES."""
    block = np.cumsum(sizes) // PIECE_BYTES
    edges = [0, *(np.flatnonzero(block[1:] != block[:-1]) + 1).tolist(), len(sizes)]
    return (slice(start, end) for start, end in pairwise(edges) if end > start)


def _read_tiles(file: FileBytes, offsets: np.ndarray, sizes: np.ndarray, out: memoryview) -> None:
    """Fill ``out`` with the concatenated bytes of several tiles, with one read per contiguous range of the file."""
    breaks = np.flatnonzero(offsets[1:] != offsets[:-1] + sizes[:-1]) + 1
    position = 0
    for first, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(offsets)], strict=True):
        length = int(sizes[first:end].sum())
        file.read_into(int(offsets[first]), out[position : position + length])
        position += length


class TileHead(NamedTuple):
    """The first bytes of tiles, as far as their size and, if there is one, their last text."""

    given: bytes
    without_texts: bytes

    @classmethod
    def of(cls, stream: bytes, sized: bytes, codec: Codec) -> TileHead:
        """The head of a tile, whose bytes as far as its size are ``sized``."""
        spans = TEXT_SPANS[codec](stream)
        given = stream[: max([len(sized), *(end for _, end in spans)])]
        kept = given
        for start, end in reversed(spans):
            kept = kept[:start] + kept[end:]
        return cls(given, kept)


class _StreamCheck:
    """Finds tiles whose header or last bytes do not fit the level, and tiles with texts, without decoding them.

    Thread-safe.
    """

    def __init__(self, level: StoreLevel, total: int) -> None:
        self._codec, self._size = level.coding.codec, (level.tile_width, level.tile_height)
        self._total = total
        self._heads: list[TileHead] = []
        """Of tiles that have the size of the level's tiles."""
        self._first_without_texts = b""
        self._bad: list[tuple[int, int]] = []
        self._unended: list[tuple[int, int]] = []
        self._colours: dict[int, Colour | None] = {}
        """Colour space that the first tile states which begins with a marker, by the marker."""

    def add(self, rows: np.ndarray, columns: np.ndarray, sizes: np.ndarray, data: bytearray) -> dict[int, TileHead]:
        """Check tiles whose bytes ``data`` begins with, one after another; return heads with texts, by tile number."""
        ends = np.cumsum(sizes)
        view = np.frombuffer(data, np.uint8, int(ends[-1]))
        starts = ends - sizes
        head = view[starts].astype(np.uint16) << 8 | view[np.minimum(starts + 1, len(view) - 1)]
        bad = (head != 0xFFD8) if self._codec == "jpeg" else (head != 0xFF4F) & (head != 0x0000)
        self._bad.extend((int(rows[i]), int(columns[i])) for i in np.flatnonzero(bad))
        texts = self._check_heads(rows, columns, starts, ends, data)
        tail = view[np.maximum(ends - 2, 0)].astype(np.uint16) << 8 | view[ends - 1]
        for i in np.flatnonzero(tail != 0xFFD9):
            if EOI not in bytes(data[max(int(starts[i]), int(ends[i]) - TRAILER) : int(ends[i])]):
                self._unended.append((int(rows[i]), int(columns[i])))
        if self._codec == "jpeg" and not bad.any():
            self._add_colours(view, starts, ends)
        return texts

    def _check_heads(
        self, rows: np.ndarray, columns: np.ndarray, starts: np.ndarray, ends: np.ndarray, data: bytearray
    ) -> dict[int, TileHead]:
        """Compare the sizes in the headers and find texts. Nearly all tiles of a level begin alike: few are parsed."""
        texts: dict[int, TileHead] = {}
        spans = starts.tolist(), ends.tolist()
        for i in self._unlike_the_first(data, *spans):
            start, end = spans[0][i], spans[1][i]
            head = self._known(data, start, end) or self._parse(bytes(data[start:end]))
            if head is None:
                self._bad.append((int(rows[i]), int(columns[i])))
            elif len(head.given) > len(head.without_texts):
                texts[i] = head
        return texts

    def _unlike_the_first(self, data: bytearray, starts: list[int], ends: list[int]) -> Iterable[int]:
        """Return the tiles that do not begin with the first head without texts: nearly none. No loop, for speed."""
        head = self._first_without_texts
        if not head:
            return range(len(starts))
        alike = map(data.startswith, repeat(head), starts, ends)
        return [i for i, same in enumerate(alike) if not same]

    def _known(self, data: bytearray, start: int, end: int) -> TileHead | None:
        for head in self._heads:
            if data.startswith(head.given, start, end):
                return head
        return None

    def _parse(self, tile: bytes) -> TileHead | None:
        """Return the head of a tile, and remember it; None if the tile has not the size of the level's tiles."""
        try:
            sized, size = SIZED_HEADS[self._codec](tile)
            if size != self._size:
                return None
            head = TileHead.of(tile, sized, self._codec)
        except (ValueError, IndexError, struct.error):
            return None
        if len(self._heads) < MOST_HEADS:
            self._heads.append(head)
        if not self._first_without_texts and head.given == head.without_texts:
            self._first_without_texts = head.given
        return head

    def _add_colours(self, view: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        """Parse one tile of each kind: encoders put the marker that states a colour space first."""
        markers = view[np.minimum(starts + 3, len(view) - 1)].tolist()
        for marker in set(markers) - self._colours.keys():
            i = markers.index(marker)
            with suppress(JpegStreamError, struct.error):  # reported when the tile is decoded
                self._colours[marker] = stated_colour(view[starts[i] : ends[i]].tobytes())

    def finish(self) -> None:
        """Raise DamagedTilesError if damaged tiles were found.

        Missing end markers are ignored if at least half of the tiles lack one: some writers never write them.
        """
        if len(set(self._colours.values())) > 1:
            raise UnsupportedSlideError("tiles of one level state different colour spaces")
        bad = set(self._bad + (self._unended if len(self._unended) < self._total / 2 else []))
        if bad:
            listed = ", ".join(f"row {r} column {c}" for r, c in sorted(bad)[:5])
            width, height = self._size
            raise DamagedTilesError(
                f"{len(bad)} of {self._total} tiles are not {self._codec} streams of {width} x {height} px: {listed}"
            )
