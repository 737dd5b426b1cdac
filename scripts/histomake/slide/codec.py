"""Owns how one tile becomes bytes and back: codec, colour, shared tables, and their names in Zarr metadata."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Literal

import imagecodecs
import numpy as np

Codec = Literal["jpeg", "jpeg2k", "jpegxl", "zstd"]

TRANSPOSE = {"name": "transpose", "configuration": {"order": [1, 2, 0]}}
ZSTD_LEVEL = 3


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

    def decode(self, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
        """One tile as uint8 ``shape`` = (height, width, 3); TileDecodeError when the bytes are something else."""
        try:
            if self.codec == "jpeg":
                tile = imagecodecs.jpeg8_decode(data, tables=self.tables, colorspace=self.colour, outcolorspace="RGB")
            elif self.codec == "jpeg2k":
                tile = imagecodecs.jpeg2k_decode(data)
            elif self.codec == "jpegxl":
                tile = imagecodecs.jpegxl_decode(data)
            else:
                tile = np.frombuffer(imagecodecs.zstd_decode(data), np.uint8).reshape(shape)
        except (RuntimeError, ValueError) as error:
            raise TileDecodeError(str(error)) from error
        if tile.shape != shape or tile.dtype != np.uint8:
            raise TileDecodeError(f"decoded to {tile.dtype} {tile.shape}, not to a tile of {shape}")
        return tile

    def encode(self, tile: np.ndarray) -> bytes:
        """Encode a uint8 (height, width, 3) tile."""
        tile = np.ascontiguousarray(tile)
        if self.codec == "jpeg":
            return imagecodecs.jpeg8_encode(tile, level=self.quality, colorspace="RGB", outcolorspace=self.colour)
        if self.codec == "jpegxl":
            return imagecodecs.jpegxl_encode(tile, level=self.quality, numthreads=1)
        if self.codec == "zstd":
            return imagecodecs.zstd_encode(tile, level=ZSTD_LEVEL)
        raise ValueError(f"tiles are never encoded as {self.codec}")
