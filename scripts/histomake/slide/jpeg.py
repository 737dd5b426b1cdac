"""Parsing and splicing of JPEG streams at marker level, without decoding pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

Colour = Literal["RGB", "YCBCR"]
"""Colour space of the components of a JPEG stream."""

SOI = b"\xff\xd8"
EOI = b"\xff\xd9"
# APP14 "Adobe" marker, version 100, no flags, transform 0: the components are R, G, B and need no colour conversion.
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"

APP0, APP14, SOS, COM = 0xE0, 0xEE, 0xDA, 0xFE
_APPLICATION = range(0xE0, 0xF0)
_STANDALONE = {0x01, *range(0xD0, 0xD8)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = {0xC0, 0xC1}
_SHARED = {0xC4, 0xCC, 0xDB, 0xDD}
"""Segments that the tiles of a TIFF may share: Huffman and arithmetic codes, quantisation, restart interval."""


class JpegStreamError(ValueError):
    """The bytes are not a JPEG stream, or not one that can be parsed."""


@dataclass(frozen=True)
class Frame:
    """The frame header (SOF) of a JPEG stream (ITU T.81, B.2.2)."""

    width: int
    height: int
    components: int
    precision: int
    sequential: bool
    sampling: tuple[tuple[int, int], ...]

    @property
    def subsampled(self) -> bool:
        """Whether any component has fewer samples than another."""
        return len(set(self.sampling)) > 1


def _segments(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of the payload of every marker segment up to and including the scan header."""
    if stream[:2] != SOI:
        raise JpegStreamError("no start-of-image marker")
    position = 2
    while position + 4 <= len(stream):
        if stream[position] != 0xFF:
            raise JpegStreamError(f"no marker at byte {position}")
        marker = stream[position + 1]
        if marker == 0xFF or marker in _STANDALONE:
            position += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", stream, position + 2)
        yield marker, position + 4, position + 2 + length
        if marker == SOS or length < 2:
            return
        position += 2 + length


def read_frame(stream: bytes) -> Frame:
    """Return the frame header of ``stream``. Raises JpegStreamError if there is none."""
    for marker, start, end in _segments(stream):
        if marker in _FRAMES:
            return _parse_frame(stream[start:end], sequential=marker in _SEQUENTIAL)
    raise JpegStreamError("no frame header")


def frame_size(stream: bytes) -> tuple[int, int]:
    """Return width and height only, cheap enough to check every tile. Raises JpegStreamError if there is no frame."""
    return sized_head(stream)[1]


def sized_head(stream: bytes) -> tuple[bytes, tuple[int, int]]:
    """Return the bytes of a stream up to the size of its frame, and width and height.

    Streams that begin with the same bytes have the same size. Raises JpegStreamError if there is no frame header.
    """
    for marker, start, _ in _segments(stream):
        if marker in _FRAMES and len(stream) >= start + 5:
            height, width = struct.unpack_from(">HH", stream, start + 1)
            return stream[: start + 5], (width, height)
    raise JpegStreamError("no frame header")


def text_spans(stream: bytes) -> list[tuple[int, int]]:
    """Return (start, end) of the segments before the scan that can hold text: comments, EXIF, XMP and the like.

    Decoders need none of them. JFIF and Adobe markers, which state the colours, are no texts.
    """
    found = []
    with suppress(JpegStreamError):  # reported when the stream is decoded, if it cannot be
        for marker, start, end in _segments(stream):
            states_colour = marker == APP14 or (marker == APP0 and stream[start : start + 5] == b"JFIF\0")
            if marker == COM or (marker in _APPLICATION and not states_colour):
                found.append((start - 4, end))
    return found


def without_texts(stream: bytes) -> bytes:
    """Return a stream, or the tables that streams share, without the segments of `text_spans`."""
    for start, end in reversed(text_spans(stream)):
        stream = stream[:start] + stream[end:]
    return stream


def application_segments(stream: bytes, marker: int) -> Iterator[bytes]:
    """Yield the content of every segment of one kind before the scan."""
    return (stream[start:end] for found, start, end in _segments(stream) if found == marker)


def stated_colour(stream: bytes) -> Colour | None:
    """Return the colour space that a stream states, or None: by a JFIF or Adobe marker, else by components that are
    named R, G and B (the rules of libjpeg).
    """
    stated: Colour | None = None
    for marker, start, end in _segments(stream):
        payload = stream[start:end]
        if marker == APP0 and payload.startswith(b"JFIF\0"):
            return "YCBCR"
        if marker == APP14 and payload.startswith(b"Adobe") and len(payload) >= 12:
            stated = "RGB" if payload[11] == 0 else "YCBCR"
        if marker in _FRAMES and stated is None and payload[6::3][:3] == b"RGB":
            stated = "RGB"
    return stated


def _parse_frame(body: bytes, *, sequential: bool) -> Frame:
    if len(body) < 6 or len(body) < 6 + 3 * body[5]:
        raise JpegStreamError("frame header is truncated")
    precision, height, width, components = struct.unpack_from(">BHHB", body)
    sampling = tuple((body[7 + 3 * i] >> 4, body[7 + 3 * i] & 15) for i in range(components))
    return Frame(width, height, components, precision, sequential, sampling)


def first_rows(stream: bytes, rows: int, height: int) -> tuple[bytes, int]:
    """Shorten a stream to its first ``rows`` rows or slightly more; return it with its number of rows.

    The remaining rows decode to the same values as before. A baseline scan is coded from top to bottom, so a decoder
    that reads a smaller height in the header stops early. Only streams with one interleaved scan can be shortened;
    others are returned unchanged, with ``height``. If chroma has half the rows, decoders interpolate it with the row
    below as well, so two more rows are kept.
    """
    height_at, mcu_rows, components = 0, 8, 0
    for marker, start, _ in _segments(stream):
        if marker in _SEQUENTIAL:
            height_at, components = start + 1, stream[start + 5]
            mcu_rows = 8 * max(stream[start + 7 + 3 * i] & 15 for i in range(components))
        elif marker == SOS:
            wanted = -(-(rows + (2 if mcu_rows > 8 else 0)) // mcu_rows) * mcu_rows
            if not height_at or stream[start] != components or wanted >= height:
                break
            return b"".join((stream[:height_at], wanted.to_bytes(2), stream[height_at + 2 :])), wanted
    return stream, height


def stream_head(tables: bytes | None, *, rgb: bool) -> bytes:
    """Return the bytes that replace the start-of-image marker of a tile to make it a self-contained JPEG file.

    Tiles of a TIFF are abbreviated streams: their quantisation and Huffman ``tables`` are stored once, in a tag.
    With ``rgb``, an Adobe marker states that the components are RGB. Without the marker, ordinary decoders, including
    nvJPEG, assume YCbCr and convert the colours a second time.
    """
    shared = b"".join(_shared_segments(tables)) if tables else b""
    return SOI + (ADOBE_RGB if rgb else b"") + shared


def _shared_segments(tables: bytes) -> Iterator[bytes]:
    """Yield the segments of ``tables`` that describe how tiles are coded, without markers that state a colour space:
    the tiles have their own colour, which those markers would override.
    """
    for marker, start, end in _segments(tables):
        if marker in _SHARED:
            yield tables[start - 4 : end]


def complete(tile: bytes, head: bytes) -> bytes:
    """Return ``tile`` as a self-contained JPEG file; ``head`` comes from ``stream_head``."""
    return b"".join((head, memoryview(tile)[2:])) if len(head) > len(SOI) else tile
