"""Owns how one tile becomes bytes and back: codec, colour, shared tables, and their names in Zarr metadata."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import cv2
import imagecodecs
import numpy as np
import simplejpeg

from histomake.slide.jpeg import complete, first_rows, frame_size, stream_head

Codec = Literal["jpeg", "jpeg2k", "jpegxl", "zstd"]

TRANSPOSE = {"name": "transpose", "configuration": {"order": [1, 2, 0]}}
ZSTD_LEVEL = 3
SUBSAMPLING = "422"
"""Chroma of re-encoded tiles, as most scanners have it: 6 % more bytes than 4:2:0, and stains keep their edges."""

WORTHWHILE = 0.85
"""Share of a tile's rows above which sparing the others costs more than it saves."""


class TileDecodeError(Exception):
    """The bytes of a tile do not decode to a tile."""


@dataclass(frozen=True)
class TileCoding:
    """How the tiles of a level are encoded.

    ``colour`` is what the components of a JPEG stream mean, ``tables`` are JPEG tables shared by the level's
    tiles (abbreviated streams, ITU T.81 B.4), ``quality`` (1-100) is only needed to encode.
    """

    codec: Codec
    colour: Literal["RGB", "YCBCR"] = "YCBCR"
    tables: bytes | None = None
    quality: int | None = None

    def to_zarr(self) -> list[dict[str, Any]]:
        """The codec chain of one (c, y, x) chunk, as Zarr v3 metadata."""
        if self.codec == "zstd":
            options = {"level": ZSTD_LEVEL, "checksum": False}
            return [TRANSPOSE, {"name": "bytes"}, {"name": "zstd", "configuration": options}]
        options: dict[str, Any] = {} if self.quality is None else {"level": self.quality}
        if self.codec == "jpeg":
            options |= {"colorspace_data": "RGB", "colorspace_jpeg": self.colour}
            if self.tables:
                options["tables"] = base64.b64encode(self.tables).decode()
        return [TRANSPOSE, {"name": f"imagecodecs_{self.codec}", "configuration": options}]

    @classmethod
    def from_zarr(cls, codecs: list[dict[str, Any]]) -> TileCoding:
        """Read back what ``to_zarr`` wrote; ValueError on a chain that is not ours."""
        names = [codec["name"] for codec in codecs]
        if names == ["transpose", "bytes", "zstd"]:
            return cls("zstd")
        if len(names) != 2 or names[0] != "transpose" or not names[1].startswith("imagecodecs_"):
            raise ValueError(f"codec chain {names} was not written by histomake")
        options = codecs[1].get("configuration", {})
        return cls(
            names[1].removeprefix("imagecodecs_"),
            colour=options.get("colorspace_jpeg", "YCBCR"),
            tables=base64.b64decode(options["tables"]) if "tables" in options else None,
            quality=options.get("level"),
        )

    @cached_property
    def _head(self) -> bytes:
        return stream_head(self.tables, rgb=self.colour == "RGB")

    def as_file(self, data: bytes) -> bytes:
        """A JPEG tile as a self-contained file that any decoder, nvJPEG too, shows in the right colours."""
        return complete(data, self._head)

    def decode(self, data: bytes, shape: tuple[int, int, int], *, rows: int | None = None) -> np.ndarray:
        """One tile as uint8 RGB ``shape`` = (height, width, 3); TileDecodeError when the bytes are something else.

        With ``rows`` only that many rows from the top are needed: the result may end anywhere below them.
        Decoders write into memory of the expected size: a stream that claims to be larger gets none.
        """
        try:
            if self.codec == "jpeg":
                return self._decode_jpeg(data, shape, rows)
            out = np.empty(shape, np.uint8)
            if self.codec == "zstd":
                flat = imagecodecs.zstd_decode(data, out=out.reshape(-1))
                if len(flat) != out.size:
                    raise TileDecodeError(f"decoded to {len(flat)} bytes, not to a tile of {shape}")
                return out
            decode = imagecodecs.jpeg2k_decode if self.codec == "jpeg2k" else imagecodecs.jpegxl_decode
            return decode(data, out=out)
        except (RuntimeError, ValueError, IndexError, struct.error) as error:
            raise TileDecodeError(str(error)) from error

    def _decode_jpeg(self, data: bytes, shape: tuple[int, int, int], rows: int | None) -> np.ndarray:
        height, width, _ = shape
        if rows is not None and rows < height * WORTHWHILE:
            data, height = first_rows(data, rows, height)
        out = np.empty((height, width, 3), np.uint8)
        file = self.as_file(data)
        try:
            return self._turbo(file, out)
        except ValueError:
            # Rare layouts, such as odd subsampling, are beyond libjpeg-turbo's quick interface.
            return imagecodecs.jpeg8_decode(file, colorspace=self.colour, outcolorspace="RGB", out=out)

    def _turbo(self, file: bytes, out: np.ndarray, factor: int = 1) -> np.ndarray:
        """Decode a complete JPEG file, shrunk by ``factor``, into ``out``; ValueError when it does not fit."""
        height, width = (out.shape[0], out.shape[1]) if factor > 1 else (0, 0)
        tile = simplejpeg.decode_jpeg(file, min_height=height, min_width=width, buffer=out, strict=False)
        if tile.shape != out.shape:
            raise ValueError(f"decoded to {tile.shape}, not to {out.shape}")
        return out

    def reductions(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Factors, largest first, by which the decoder itself can shrink a tile of ``shape``."""
        if self.codec != "jpeg":
            return ()
        return tuple(f for f in (8, 4, 2) if shape[0] % f == 0 and shape[1] % f == 0)

    def decode_reduced(
        self, data: bytes, shape: tuple[int, int, int], factor: int, *, rows: int | None = None
    ) -> np.ndarray:
        """One JPEG tile at 1 / ``factor`` of its size, from the low frequencies of each block (libjpeg's scaling).

        Within half a grey level of the mean over factor x factor pixels on stained tissue, and faster: pixels that
        nobody asked for are not computed, and subsampled chroma needs no interpolation. With ``rows`` only that many
        rows of the result are needed, as in ``decode``.
        """
        height, width, _ = shape
        part = data
        try:
            if (size := frame_size(data)) != (width, height):
                raise TileDecodeError(f"a stream of {size[0]} x {size[1]} px is no tile of {shape}")
            if rows is not None and rows * factor < height * WORTHWHILE:
                part, height = first_rows(data, rows * factor, height)
            out = np.empty((-(-height // factor), width // factor, 3), np.uint8)
            return self._turbo(self.as_file(part), out, factor)
        except (ValueError, IndexError, struct.error):
            full = self.decode(data, shape)
            return cv2.resize(full, (shape[1] // factor, shape[0] // factor), interpolation=cv2.INTER_AREA)

    def encode(self, tile: np.ndarray) -> bytes:
        """Encode a uint8 (height, width, 3) tile."""
        tile = np.ascontiguousarray(tile)
        if self.codec == "jpeg":
            return imagecodecs.jpeg8_encode(
                tile, level=self.quality, colorspace="RGB", outcolorspace=self.colour, subsampling=SUBSAMPLING
            )
        if self.codec == "jpegxl":
            return imagecodecs.jpegxl_encode(tile, level=self.quality, numthreads=1)
        if self.codec == "zstd":
            return imagecodecs.zstd_encode(tile, level=ZSTD_LEVEL)
        raise ValueError(f"tiles are never encoded as {self.codec}")
