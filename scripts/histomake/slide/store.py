"""The slide store: an OME-Zarr 0.5 image whose shards are files of encoded tiles, read and written as bytes.

A shard holds its tiles back to back, in any order, then an index of (offset, nbytes) uint64 pairs in C order
(2^64 - 1 twice for an absent tile), then the crc32c of that index (Zarr v3 ``sharding_indexed``).
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from pathlib import Path
from types import TracebackType

import google_crc32c
import msgspec
import numpy as np

from histomake.slide.codec import TileCoding, ZarrCodec

ABSENT = 2**64 - 1
CRC_BYTES = 4
FILL = 255
OPEN_SHARDS = 256
"""Number of shards a process keeps open over all slides: well below the usual limit of 1024 file descriptors."""


class StoreError(Exception):
    """The store does not match its metadata, or is not a store of histomake."""


class _ChunkShape(msgspec.Struct):
    chunk_shape: tuple[int, int, int]


class _ChunkGrid(msgspec.Struct):
    configuration: _ChunkShape


class _Sharding(msgspec.Struct):
    chunk_shape: tuple[int, int, int]
    codecs: list[ZarrCodec]


class _ShardingCodec(msgspec.Struct):
    configuration: _Sharding


class _ArrayMetadata(msgspec.Struct):
    """The part of the zarr.json of a level that readers need."""

    shape: tuple[int, int, int]
    chunk_grid: _ChunkGrid
    codecs: list[_ShardingCodec]


class StoreAttributes(msgspec.Struct):
    """What histomake states in the zarr.json of a store: µm per pixel, and the downsample of each level."""

    mpp: float
    downsamples: list[float]


class _Dataset(msgspec.Struct):
    path: str


class _Multiscale(msgspec.Struct):
    datasets: list[_Dataset]


class _Ome(msgspec.Struct):
    multiscales: list[_Multiscale]


class _GroupAttributes(msgspec.Struct):
    histomake: StoreAttributes
    ome: _Ome


class _GroupMetadata(msgspec.Struct):
    """The part of the zarr.json of a store that readers need."""

    attributes: _GroupAttributes


@dataclass(frozen=True)
class StoreLevel:
    """One resolution of a store, in its own pixels. A shard has ``shard_rows`` x ``shard_columns`` tiles."""

    path: str
    width: int
    height: int
    tile_width: int
    tile_height: int
    shard_rows: int
    shard_columns: int
    downsample: float
    coding: TileCoding

    @property
    def grid(self) -> tuple[int, int]:
        """Number of rows and columns of tiles."""
        return -(-self.height // self.tile_height), -(-self.width // self.tile_width)

    @property
    def shards(self) -> tuple[int, int]:
        """Number of rows and columns of shards."""
        rows, columns = self.grid
        return -(-rows // self.shard_rows), -(-columns // self.shard_columns)

    @property
    def tile_shape(self) -> tuple[int, int, int]:
        """Shape of a decoded tile."""
        return self.tile_height, self.tile_width, 3

    def shard_key(self, row: int, column: int) -> str:
        """Path of a shard inside the store."""
        return f"{self.path}/c/0/{row}/{column}"

    def metadata(self) -> Mapping[str, object]:
        """Return the content of the level's zarr.json."""
        chunk = [3, self.tile_height, self.tile_width]
        shard = [3, self.tile_height * self.shard_rows, self.tile_width * self.shard_columns]
        sharding = {
            "chunk_shape": chunk,
            "codecs": self.coding.to_zarr(),
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [3, self.height, self.width],
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": FILL,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
            "dimension_names": ["c", "y", "x"],
        }

    @classmethod
    def from_metadata(cls, path: str, metadata: _ArrayMetadata, downsample: float) -> StoreLevel:
        """Create a level from the content of its zarr.json."""
        _, height, width = metadata.shape
        _, shard_height, shard_width = metadata.chunk_grid.configuration.chunk_shape
        (sharding,) = (codec.configuration for codec in metadata.codecs)
        _, tile_height, tile_width = sharding.chunk_shape
        return cls(
            path=path,
            width=width,
            height=height,
            tile_width=tile_width,
            tile_height=tile_height,
            shard_rows=shard_height // tile_height,
            shard_columns=shard_width // tile_width,
            downsample=downsample,
            coding=TileCoding.from_zarr(sharding.codecs),
        )


class ShardWriter:
    """Writer of one shard file. Tiles are appended; closing writes the index and sets ``sha256``."""

    sha256 = ""

    def __init__(self, path: Path, rows: int, columns: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._index = np.full((rows, columns, 2), ABSENT, np.uint64)
        self._digest = hashlib.sha256()
        self._end = 0

    def append(self, rows: np.ndarray | int, columns: np.ndarray, sizes: np.ndarray, data: bytes | memoryview) -> None:
        """Append tiles at ``rows`` and ``columns`` of the shard; ``data`` holds their concatenated bytes."""
        ends = self._end + np.cumsum(sizes, dtype=np.int64)
        self._index[rows, columns, 0] = ends - sizes
        self._index[rows, columns, 1] = sizes
        self._end = int(ends[-1])
        self._write(data)

    def _write(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the index, unless an exception was raised, and close the file."""
        try:
            if kind is None:
                index = self._index.astype("<u8").tobytes()
                self._write(index + google_crc32c.value(index).to_bytes(CRC_BYTES, "little"))
                self.sha256 = self._digest.hexdigest()
        finally:
            os.close(self._descriptor)


OnShardClosed = Callable[[Path, str], None]
"""Callback that receives path and sha256 of every finished shard, from the thread that finished it."""


class LevelWriter:
    """Writer of the tiles of one level into its shards, one band of shards after another, from top to bottom."""

    def __init__(self, store: Path, level: StoreLevel, on_closed: OnShardClosed) -> None:
        self._store, self._level, self._on_closed = store, level, on_closed
        self._band = -1
        self._open: dict[int, ShardWriter] = {}
        self._stack = ExitStack()

    def append(self, row: int, columns: np.ndarray, sizes: np.ndarray, data: bytes) -> None:
        """Append tiles of one row that lie in one shard. The first tile of a new band closes the previous band."""
        level = self._level
        band, inner = divmod(row, level.shard_rows)
        if band != self._band:
            self._close_band()
            self._band = band
        shard = int(columns[0]) // level.shard_columns
        if shard not in self._open:
            path = self._store / level.shard_key(band, shard)
            writer = ShardWriter(path, level.shard_rows, level.shard_columns)
            self._open[shard] = self._stack.enter_context(writer)
        self._open[shard].append(inner, columns - shard * level.shard_columns, sizes, data)

    def _close_band(self) -> None:
        self._stack.close()
        for shard in self._open.values():
            self._on_closed(shard.path, shard.sha256)
        self._open.clear()

    def __enter__(self) -> LevelWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close_band()
        self._stack.__exit__(kind, error, trace)


def image_metadata(
    levels: Sequence[StoreLevel], *, name: str, mpp: tuple[float, float], attributes: Mapping[str, object]
) -> Mapping[str, object]:
    """Return the group's zarr.json: OME-Zarr 0.5 multiscales in micrometres, RGB channels, and ``attributes``.

    All levels share their top-left corner, but OME-Zarr places a pixel at its centre. The translations correct this.
    """
    datasets = []
    for level in levels:
        scale = [mpp[1] * level.downsample, mpp[0] * level.downsample]
        shift = [(s - m) / 2 for s, m in zip(scale, (mpp[1], mpp[0]), strict=True)]
        transforms = [{"type": "scale", "scale": [1.0, *scale]}, {"type": "translation", "translation": [0.0, *shift]}]
        datasets.append({"path": level.path, "coordinateTransformations": transforms})
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    ome = {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": datasets, "type": "area"}],
        "omero": {"name": name, "channels": [_channel(n, c) for n, c in _CHANNELS], "rdefs": {"model": "color"}},
    }
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome, "histomake": attributes}}


_CHANNELS = (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))


def _channel(label: str, colour: str) -> Mapping[str, object]:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    return {"label": label, "color": colour, "active": True, "window": window}


def dump_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a zarr.json of a store that is not yet at its final path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1))


class _Shard:
    """An open shard, with positional reads and the index in memory. Closed when the last reference is dropped."""

    def __init__(self, path: Path, start: int, size: int, rows: int, columns: int) -> None:
        self._descriptor = -1
        self._descriptor = os.open(path, os.O_RDONLY)
        self._start = start
        size = size if size >= 0 else os.fstat(self._descriptor).st_size
        length = rows * columns * 16
        tail = os.pread(self._descriptor, length + CRC_BYTES, start + max(0, size - length - CRC_BYTES))
        index, crc = tail[:length], tail[length:]
        if len(tail) != length + CRC_BYTES or google_crc32c.value(index) != int.from_bytes(crc, "little"):
            raise StoreError(f"the index of {path} is damaged")
        # An array, because creating and freeing lists would take longer than opening the shard itself.
        self.index = np.frombuffer(index, "<u8").reshape(rows * columns, 2)

    def read(self, tile: int) -> bytes | None:
        """Return the encoded bytes of a tile, or None if it is empty."""
        offset, count = self.index[tile].tolist()
        return None if count == ABSENT else self._read(offset, count)

    def read_row(self, first: int, count: int) -> list[bytes | None]:
        """Return the encoded bytes of adjacent tiles, with one read if they are contiguous, as most copied ones are."""
        entries = self.index[first : first + count].tolist()
        apart = any(offset + size != after for (offset, size), (after, _) in pairwise(entries))
        if apart or entries[0][1] == ABSENT:
            return [self.read(tile) for tile in range(first, first + count)]
        start, end = entries[0][0], sum(entries[-1])
        data = self._read(start, end - start)
        return [data[offset - start : offset - start + size] for offset, size in entries]

    def _read(self, offset: int, count: int) -> bytes:
        data = os.pread(self._descriptor, count, self._start + offset)
        if len(data) != count:
            raise StoreError("a shard ends before its last tile")
        return data

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


@lru_cache(maxsize=OPEN_SHARDS)
def _open_shard(store: Store, level: int, row: int, column: int) -> _Shard | None:
    """Open a shard through an LRU cache shared by all stores; None for a shard whose tiles are all empty."""
    return store.open_shard(level, row, column)


class Store:
    """An existing store (directory or zip), read as encoded tiles.

    A store is thread-safe and survives a fork, because reads are positional and use no shared file position.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._zip = _zip_entries(self.path) if self.path.is_file() else None
        group = self._metadata("zarr.json", _GroupMetadata).attributes
        self.attributes = group.histomake
        try:
            (multiscale,) = group.ome.multiscales
            paths = [dataset.path for dataset in multiscale.datasets]
            self.levels = [
                StoreLevel.from_metadata(path, self._metadata(f"{path}/zarr.json", _ArrayMetadata), downsample)
                for path, downsample in zip(paths, self.attributes.downsamples, strict=True)
            ]
        except (ValueError, ZeroDivisionError, msgspec.ValidationError) as error:
            raise StoreError(f"{self.path} is not a histomake store: {error}") from error

    def _metadata[M](self, key: str, kind: type[M]) -> M:
        try:
            return msgspec.json.decode(self._read(key), type=kind)
        except (OSError, KeyError, UnicodeDecodeError, msgspec.MsgspecError) as error:
            raise StoreError(f"cannot read {key} of {self.path}: {error}") from error

    def _read(self, key: str) -> bytes:
        if self._zip is None:
            return (self.path / key).read_bytes()
        start, size = self._zip[key]
        with self.path.open("rb") as stream:
            stream.seek(start)
            return stream.read(size)

    def tile(self, level: int, row: int, column: int) -> bytes | None:
        """Return the encoded bytes of one tile, or None if it is empty (white)."""
        return self.tiles(level, row, column, column + 1)[0]

    def tiles(self, level: int, row: int, first: int, end: int) -> list[bytes | None]:
        """Return the encoded bytes of the tiles of a row, columns ``first`` to ``end`` - 1; None for empty ones."""
        layout = self.levels[level]
        across = layout.shard_columns
        shard_row, inner_row = divmod(row, layout.shard_rows)
        found: list[bytes | None] = []
        while first < end:
            shard_column, inner = divmod(first, across)
            count = min(end - first, across - inner)
            shard = _open_shard(self, level, shard_row, shard_column)
            found += [None] * count if shard is None else shard.read_row(inner_row * across + inner, count)
            first += count
        return found

    def tile_sizes(self, level: int) -> np.ndarray:
        """Return the encoded bytes of every tile of a level, int64 (rows, columns), 0 for empty tiles."""
        layout = self.levels[level]
        down, across = layout.shards
        sizes = np.zeros((down * layout.shard_rows, across * layout.shard_columns), np.int64)
        for row, column in product(range(down), range(across)):
            shard = _open_shard(self, level, row, column)
            if shard is not None:
                counts = shard.index[:, 1].reshape(layout.shard_rows, layout.shard_columns)
                top, left = row * layout.shard_rows, column * layout.shard_columns
                place = slice(top, top + layout.shard_rows), slice(left, left + layout.shard_columns)
                sizes[place] = np.where(counts == ABSENT, 0, counts)
        return sizes[: layout.grid[0], : layout.grid[1]]

    def open_shard(self, level: int, row: int, column: int) -> _Shard | None:
        """Open a shard without the cache; return None if it does not exist."""
        layout = self.levels[level]
        key = layout.shard_key(row, column)
        path, start, size = self.path / key, 0, -1
        if self._zip is not None:
            if key not in self._zip:
                return None
            path, (start, size) = self.path, self._zip[key]
        try:
            return _Shard(path, start, size, layout.shard_rows, layout.shard_columns)
        except FileNotFoundError:
            return None


def _zip_entries(path: Path) -> dict[str, tuple[int, int]]:
    """Return offset and size of every member of an uncompressed zip file."""
    entries = {}
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
            for item in archive.infolist():
                if item.compress_type != zipfile.ZIP_STORED:
                    raise StoreError(f"{path} is compressed; a zip store must be uncompressed")
                stream.seek(item.header_offset + 26)
                name, extra = (int.from_bytes(stream.read(2), "little") for _ in range(2))
                entries[item.filename] = (item.header_offset + 30 + name + extra, item.file_size)
    except zipfile.BadZipFile as error:
        raise StoreError(f"{path} is not a zip file: {error}") from error
    return entries
