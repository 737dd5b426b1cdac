"""Encoding and decoding of single tiles, and the description of the codec in Zarr metadata."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import imagecodecs
import msgspec
import numpy as np
import simplejpeg

from histomake.slide.jpeg import Colour, complete, first_rows, frame_size, stream_head

Codec = Literal["jpeg", "jpeg2k", "jpegxl", "zstd"]

TRANSPOSE = {"name": "transpose", "configuration": {"order": [1, 2, 0]}}
ZSTD_LEVEL = 3
SUBSAMPLING = "422"
"""Chroma subsampling of re-encoded tiles, as in most scanners: 6 % larger than 4:2:0, but stain edges stay sharp."""

MAX_PARTIAL_SHARE = 0.85
"""Decode the whole tile if a larger share of its rows is needed: cutting the stream would cost more than it saves."""


class TileDecodeError(Exception):
    """The bytes of a tile cannot be decoded to a tile."""


class ZarrCodec(msgspec.Struct):
    """A codec in Zarr metadata."""

    name: str
    configuration: dict[str, object] = {}


class _Options(msgspec.Struct):
    """Configuration of the codecs that histomake writes."""

    colorspace_jpeg: Colour = "YCBCR"
    tables: str | None = None
    level: int | None = None


@dataclass(frozen=True)
class TileCoding:
    """How the tiles of a level are encoded.

    Attributes:
        codec: Name of the codec.
        colour: Colour space of the components of a JPEG stream.
        tables: JPEG tables shared by all tiles of the level (abbreviated streams, ITU T.81 B.4).
        quality: 1-100; needed for encoding only.
    """

    codec: Codec
    colour: Colour = "YCBCR"
    tables: bytes | None = None
    quality: int | None = None

    def to_zarr(self) -> list[Mapping[str, object]]:
        """Return the codec chain of one (c, y, x) chunk as Zarr v3 metadata."""
        if self.codec == "zstd":
            settings = {"level": ZSTD_LEVEL, "checksum": False}
            return [TRANSPOSE, {"name": "bytes"}, {"name": "zstd", "configuration": settings}]
        options: dict[str, object] = {} if self.quality is None else {"level": self.quality}
        if self.codec == "jpeg":
            options |= {"colorspace_data": "RGB", "colorspace_jpeg": self.colour}
            if self.tables:
                options["tables"] = base64.b64encode(self.tables).decode()
        return [TRANSPOSE, {"name": f"imagecodecs_{self.codec}", "configuration": options}]

    @classmethod
    def from_zarr(cls, codecs: Sequence[ZarrCodec]) -> TileCoding:
        """Parse the output of ``to_zarr``. Raises ValueError for a codec chain that histomake does not write."""
        names = [codec.name for codec in codecs]
        if names == ["transpose", "bytes", "zstd"]:
            return cls("zstd")
        if len(names) != 2 or names[0] != "transpose" or not names[1].startswith("imagecodecs_"):
            raise ValueError(f"codec chain {names} was not written by histomake")
        options = msgspec.convert(codecs[1].configuration, _Options)
        return cls(
            msgspec.convert(names[1].removeprefix("imagecodecs_"), Codec),
            colour=options.colorspace_jpeg,
            tables=None if options.tables is None else base64.b64decode(options.tables),
            quality=options.level,
        )

    @cached_property
    def _head(self) -> bytes:
        return stream_head(self.tables, rgb=self.colour == "RGB")

    def as_file(self, data: bytes) -> bytes:
        """Return a JPEG tile as a self-contained file whose colours any decoder, including nvJPEG, shows correctly."""
        return complete(data, self._head)

    def decode(self, data: bytes, shape: tuple[int, int, int], *, rows: int | None = None) -> np.ndarray:
        """Decode one tile to uint8 RGB of ``shape`` = (height, width, 3).

        If ``rows`` is given, only that many rows from the top are needed, and the result may have fewer rows than
        ``shape``. The output buffer has the expected size, so a stream that claims a larger image allocates nothing.

        Raises TileDecodeError if the bytes cannot be decoded to a tile of ``shape``.
        """
        try:
            if self.codec == "jpeg":
                return self._decode_jpeg(data, shape, rows)
            out = np.empty(shape, np.uint8)
            if self.codec == "zstd":
                flat = imagecodecs.zstd_decode(data, out=memoryview(out.reshape(-1)))
                if len(flat) != out.size:
                    raise TileDecodeError(f"decoded to {len(flat)} bytes instead of a tile of shape {shape}")
                return out
            decode = imagecodecs.jpeg2k_decode if self.codec == "jpeg2k" else imagecodecs.jpegxl_decode
            return decode(data, out=out)
        except (RuntimeError, ValueError, IndexError, struct.error) as error:
            raise TileDecodeError(str(error)) from error

    def decode_as_stated(self, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        """Decode one tile with nothing but the settings in ``to_zarr``, as the codecs of zarr-python do.

        For comparison: unlike ``decode``, the size of the output is that of the stream.

        Raises TileDecodeError if the bytes cannot be decoded to a tile of ``shape``.
        """
        try:
            if self.codec == "jpeg":
                tile = imagecodecs.jpeg8_decode(data, tables=self.tables, colorspace=self.colour, outcolorspace="RGB")
            elif self.codec == "jpeg2k":
                tile = imagecodecs.jpeg2k_decode(data)
            elif self.codec == "jpegxl":
                tile = imagecodecs.jpegxl_decode(data)
            else:
                tile = np.frombuffer(imagecodecs.zstd_decode(data), np.uint8)
            return np.asarray(tile).reshape(shape)
        except (RuntimeError, ValueError) as error:
            raise TileDecodeError(str(error)) from error

    def _decode_jpeg(self, data: bytes, shape: tuple[int, int, int], rows: int | None) -> np.ndarray:
        height, width, _ = shape
        if rows is not None and rows < height * MAX_PARTIAL_SHARE:
            data, height = first_rows(data, rows, height)
        out = np.empty((height, width, 3), np.uint8)
        file = self.as_file(data)
        try:
            return self._decode_with_turbo(file, out)
        except ValueError:
            # libjpeg-turbo's fast interface does not support rare layouts, such as unusual subsampling.
            return imagecodecs.jpeg8_decode(file, colorspace=self.colour, outcolorspace="RGB", out=out)

    def _decode_with_turbo(self, file: bytes, out: np.ndarray, factor: int = 1) -> np.ndarray:
        """Decode a complete JPEG file, reduced by ``factor``, into ``out``. Raises ValueError if the shapes differ."""
        height, width = (out.shape[0], out.shape[1]) if factor > 1 else (0, 0)
        tile = simplejpeg.decode_jpeg(file, min_height=height, min_width=width, buffer=out, strict=False)
        if tile.shape != out.shape:
            raise ValueError(f"decoded to shape {tile.shape} instead of {out.shape}")
        return out

    def reductions(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """Return the factors, largest first, by which the decoder itself can reduce a tile of ``shape``."""
        if self.codec != "jpeg":
            return ()
        return tuple(f for f in (8, 4, 2) if shape[0] % f == 0 and shape[1] % f == 0)

    def decode_reduced(
        self, data: bytes, shape: tuple[int, int, int], factor: int, *, rows: int | None = None
    ) -> np.ndarray:
        """Decode one JPEG tile at 1 / ``factor`` of its size from the low frequencies of each block (libjpeg scaling).

        On stained tissue the result is within half a grey level of the mean over factor x factor pixels. It is faster
        than decoding the full tile, because fewer pixels are computed and subsampled chroma needs no interpolation.
        If ``rows`` is given, only that many rows of the result are needed, as in ``decode``.
        """
        height, width, _ = shape
        part = data
        try:
            if (size := frame_size(data)) != (width, height):
                raise TileDecodeError(f"the stream has {size[0]} x {size[1]} px, but a tile has shape {shape}")
            if rows is not None and rows * factor < height * MAX_PARTIAL_SHARE:
                part, height = first_rows(data, rows * factor, height)
            out = np.empty((-(-height // factor), width // factor, 3), np.uint8)
            return self._decode_with_turbo(self.as_file(part), out, factor)
        except (ValueError, IndexError, struct.error):
            full = self.decode(data, shape)
            return cv2.resize(full, (shape[1] // factor, shape[0] // factor), interpolation=cv2.INTER_AREA)

    def encode(self, tile: np.ndarray) -> bytes:
        """Encode a uint8 (height, width, 3) tile. JPEG 2000, into which only gaps of a copied level go, is lossless."""
        tile = np.ascontiguousarray(tile)
        if self.codec == "jpeg":
            sampling = SUBSAMPLING if self.colour == "YCBCR" else "444"
            encoded = imagecodecs.jpeg8_encode(
                tile, level=self.quality, colorspace="RGB", outcolorspace=self.colour, subsampling=sampling
            )
            return bytes(encoded)
        if self.codec == "jpeg2k":
            return bytes(imagecodecs.jpeg2k_encode(tile, level=0, reversible=True, codecformat="j2k"))
        if self.codec == "jpegxl":
            return bytes(imagecodecs.jpegxl_encode(tile, level=self.quality, numthreads=1))
        if self.codec == "zstd":
            return bytes(imagecodecs.zstd_encode(tile, level=ZSTD_LEVEL))
        raise ValueError(f"{self.codec} is not a codec of tiles")
