"""Parsing of JPEG 2000 codestream headers, without decoding pixels."""

from __future__ import annotations

import struct
from dataclasses import dataclass

CODESTREAM = b"\xff\x4f\xff\x51"
_COD = 0x52
_SOT = 0x90


class Jpeg2000StreamError(ValueError):
    """The bytes are not a JPEG 2000 codestream."""


@dataclass(frozen=True)
class Codestream:
    """Contents of the SIZ and COD markers (ITU T.800, A.5.1 and A.6.1)."""

    width: int
    height: int
    components: int
    precision: int
    subsampled: bool
    colour_transform: bool


def read_codestream(stream: bytes) -> Codestream:
    """Parse the main header of a raw or JP2-boxed codestream. Raises Jpeg2000StreamError if there is none."""
    start = stream.find(CODESTREAM, 0, 4096)
    if start < 0 or len(stream) < start + 44:
        raise Jpeg2000StreamError("no codestream header")
    width, height, left, top = struct.unpack_from(">IIII", stream, start + 8)
    (components,) = struct.unpack_from(">H", stream, start + 40)
    details = stream[start + 42 : start + 42 + 3 * components]
    if len(details) < 3 * components or not components:
        raise Jpeg2000StreamError("component list is truncated")
    (length,) = struct.unpack_from(">H", stream, start + 4)
    return Codestream(
        width=width - left,
        height=height - top,
        components=components,
        precision=(details[0] & 0x7F) + 1,
        subsampled=any(details[3 * i + 1] != 1 or details[3 * i + 2] != 1 for i in range(components)),
        colour_transform=_colour_transform(stream, start + 4 + length),
    )


def _colour_transform(stream: bytes, position: int) -> bool:
    while position + 9 <= len(stream) and stream[position] == 0xFF and stream[position + 1] != _SOT:
        if stream[position + 1] == _COD:
            return stream[position + 8] == 1
        position += 2 + struct.unpack_from(">H", stream, position + 2)[0]
    return False
