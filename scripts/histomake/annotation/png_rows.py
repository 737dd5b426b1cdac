"""PNG images of any size, read in strips of rows from top to bottom.

Pillow decodes a PNG only as a whole, and refuses large ones. Here the compressed rows are inflated in strips, and each
strip is handed to Pillow as a small PNG of its own, below the row that it depends on (PNG, 3rd edition, ch. 9).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from histomake.annotation.drawn import AnnotationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, PALETTE = 0, 3
STRIP_BYTES = 1 << 25
"""Decompressed bytes that are decoded at a time."""
READ_BYTES = 1 << 20


class PngRows:
    """The samples of a grey or palette PNG, uint8 or uint16 (y, x), sliced like an array of rows.

    Palette images give indices. Rows that lie above those read last are read from the beginning again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as stream:
            if stream.read(8) != SIGNATURE:
                raise AnnotationError("the label mask cannot be read (not a PNG image)")
            kind, content = next(_chunks(stream), (b"", b""))
        if kind != b"IHDR" or len(content) != 13:
            raise AnnotationError("the PNG has no valid header")
        width, height, self._depth, self._colour, _, _, interlaced = struct.unpack(">IIBBBBB", content)
        self.shape, self.interlaced = (height, width), bool(interlaced)
        self.dtype = np.dtype(np.uint16 if self._depth == 16 else np.uint8)
        if interlaced and self._depth in (2, 4):
            raise AnnotationError(f"an interlaced PNG of {self._depth} bits is not read", "Save it without interlacing")
        if self._colour not in (GREY, PALETTE) or self._depth not in (1, 2, 4, 8, 16):
            raise AnnotationError(
                "a label mask must have one grey value or palette index per pixel; this PNG has colours"
            )
        self._row_bytes = (width * self._depth + 7) // 8
        self._span, self._block = (0, 0), np.zeros((0, width), self.dtype)
        self._restart()

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[Any]:
        """Read rows and columns. The last rows are kept, so that their columns can be read one part after another."""
        rows, columns = index
        top, bottom, _ = rows.indices(self.shape[0])
        if (top, bottom) != self._span:
            self._block, self._span = self._read(top, bottom), (top, bottom)
        return self._block[:, columns]

    def _restart(self) -> None:
        self._next, self._above, self._rest = 0, bytes(self._row_bytes), b""
        self._inflate, self._data = zlib.decompressobj(), _image_data(self._path)

    def _read(self, top: int, bottom: int) -> NDArray[Any]:
        if top < self._next:
            self._restart()
        strip = max(1, STRIP_BYTES // (self._row_bytes + 1))
        kept = [np.zeros((0, self.shape[1]), self.dtype)]
        while self._next < bottom:
            limit = top if self._next < top else bottom
            first, rows = self._next, self._unfiltered(min(strip, limit - self._next))
            if first >= top:
                kept.append(self._samples(rows))
        return np.concatenate(kept)

    def _unfiltered(self, count: int) -> NDArray[np.uint8]:
        """The next rows as bytes, uint8 (count, row_bytes)."""
        size = count * (self._row_bytes + 1)
        filtered = b"".join([self._rest, *self._inflated(size - len(self._rest))])
        filtered, self._rest = filtered[:size], filtered[size:]
        if len(filtered) < size:
            raise AnnotationError(f"the PNG ends in row {self._next + len(filtered) // (self._row_bytes + 1)}")
        wide = self._depth == 16
        image = _png(
            self.shape[1] if wide else self._row_bytes, count + 1, 16 if wide else 8, b"\0" + self._above + filtered
        )
        with Image.open(io.BytesIO(image)) as opened:
            decoded = np.asarray(opened)[1:]
        rows = decoded.astype(">u2").view(np.uint8) if wide else decoded
        self._above, self._next = rows[-1].tobytes(), self._next + count
        if self._next == self.shape[0]:
            self._check_end()
        return rows

    def _check_end(self) -> None:
        """Read what follows the last row, so that all checksums are compared."""
        more = self._rest or b"".join(self._inflated(1))
        if more or not self._inflate.eof:
            raise AnnotationError("the PNG is damaged: its pixels do not end with its last row")
        for _ in self._data:
            pass

    def _inflated(self, size: int) -> Iterator[bytes]:
        """The next decompressed bytes, at least ``size`` of them unless the file ends."""
        waiting = self._inflate.unconsumed_tail
        while size > 0:
            waiting = waiting or next(self._data, b"")
            if not waiting:
                return
            part = self._inflate.decompress(waiting, size)
            waiting, size = self._inflate.unconsumed_tail, size - len(part)
            yield part

    def _samples(self, rows: NDArray[np.uint8]) -> NDArray[Any]:
        width = self.shape[1]
        if self._depth == 16:
            return rows.reshape(len(rows), width, 2).view(">u2")[..., 0].astype(np.uint16)
        if self._depth == 8:
            return rows
        bits = np.unpackbits(rows, axis=1)[:, : width * self._depth].reshape(len(rows), width, self._depth)
        return np.packbits(bits, axis=2)[..., 0] >> (8 - self._depth)


def _chunks(stream: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each chunk up to the end of the image; large contents in parts. Checksums are checked."""
    while True:
        head = stream.read(8)
        if len(head) < 8:
            raise AnnotationError("the PNG ends before its last chunk")
        length, kind = struct.unpack(">I4s", head)
        checksum, left = zlib.crc32(kind), length
        while left or not length:
            part = stream.read(min(left, READ_BYTES))
            if len(part) < min(left, READ_BYTES):
                raise AnnotationError("the PNG ends before its last chunk")
            checksum, left = zlib.crc32(part, checksum), left - len(part)
            yield kind, part
            if not length:
                break
        if struct.unpack(">I", stream.read(4).ljust(4, b"\0")) != (checksum,):
            raise AnnotationError(f"the PNG is damaged: a chunk {kind!r} does not have its checksum")
        if kind == b"IEND":
            return


def _image_data(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(len(SIGNATURE))
        yield from (part for kind, part in _chunks(stream) if kind == b"IDAT")


def _png(width: int, height: int, depth: int, filtered: bytes) -> bytes:
    """A grey PNG of rows that are filtered already."""
    head = struct.pack(">IIBBBBB", width, height, depth, GREY, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(filtered, 0)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in parts)
    return SIGNATURE + b"".join(chunks)
