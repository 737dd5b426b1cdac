"""Parsing of JPEG 2000 codestream headers, without decoding pixels."""

from __future__ import annotations

import struct
from dataclasses import dataclass

CODESTREAM = b"\xff\x4f\xff\x51"
_COD = 0x52
_SOT = 0x90
_ENUMERATED = 1
"""Method of a colour box that names a colour space by number (ITU T.800, I.5.3.3)."""
SRGB, SYCC = 16, 18


class Jpeg2000StreamError(ValueError):
    """The bytes are not a JPEG 2000 codestream."""


@dataclass(frozen=True)
class Codestream:
    """Contents of the SIZ and COD markers (ITU T.800, A.5.1 and A.6.1), and of the boxes around them.

    ``sampling`` has the distances (dx, dy) between samples of each component, ``colour_space`` the number of the colour
    space in a JP2 file, and ``palette`` says whether its components are indices.
    """

    width: int
    height: int
    components: int
    precision: int
    signed: bool
    sampling: tuple[tuple[int, int], ...]
    colour_transform: bool
    colour_space: int | None
    palette: bool

    @property
    def subsampled(self) -> bool:
        """Whether any component has fewer samples than pixels."""
        return any(distance != (1, 1) for distance in self.sampling)


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
        precision=max((details[3 * i] & 0x7F) + 1 for i in range(components)),
        signed=any(details[3 * i] & 0x80 for i in range(components)),
        sampling=tuple((details[3 * i + 1], details[3 * i + 2]) for i in range(components)),
        colour_transform=_colour_transform(stream, start + 4 + length),
        colour_space=_colour_space(stream[:start]),
        palette=b"pclr" in stream[:start],
    )


def sized_head(stream: bytes) -> tuple[bytes, tuple[int, int]]:
    """Return the bytes of a stream up to the sizes of its codestream, and width and height.

    Raises Jpeg2000StreamError if there is no codestream.
    """
    header = read_codestream(stream)
    return stream[: stream.find(CODESTREAM, 0, 4096) + 24], (header.width, header.height)


def _colour_transform(stream: bytes, position: int) -> bool:
    while position + 9 <= len(stream) and stream[position] == 0xFF and stream[position + 1] != _SOT:
        if stream[position + 1] == _COD:
            return stream[position + 8] == 1
        position += 2 + struct.unpack_from(">H", stream, position + 2)[0]
    return False


def _colour_space(boxes: bytes) -> int | None:
    start = boxes.find(b"colr")
    if start < 0 or len(boxes) < start + 11 or boxes[start + 4] != _ENUMERATED:
        return None
    return int.from_bytes(boxes[start + 7 : start + 11])
