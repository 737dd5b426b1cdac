"""Levels of a store as the viewer's page needs them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TypedDict

from histomake.slide.reader import open_slide
from histomake.slide.store import StoreLevel


class WholeJpeg(TypedDict):
    """How tiles become whole JPEG files: whether they are RGB, and their tables as base64."""

    rgb: bool
    tables: str | None


class ShownLevel(TypedDict):
    """Geometry of a level, in its own pixels; ``jpeg`` is null where a browser cannot decode its tiles."""

    path: str
    width: int
    height: int
    tile_width: int
    tile_height: int
    shard_rows: int
    shard_columns: int
    downsample: float
    jpeg: WholeJpeg | None


def describe_levels(manifest: Path) -> list[ShownLevel]:
    """The levels of the slide of a manifest, finest first. Raises SlideError if its store cannot be read."""
    with open_slide(manifest) as reader:
        zipped = reader.path.is_file()
        return [_described(level, zipped=zipped) for level in reader.levels]


def _described(level: StoreLevel, *, zipped: bool) -> ShownLevel:
    """A level's geometry; ``jpeg`` says how its tiles are made whole JPEG files, and is null where a browser cannot.

    The shards of a zipped store are no files of their own, so their tiles come from the server.
    """
    coding = level.coding
    tables = base64.b64encode(coding.tables).decode() if coding.tables else None
    direct = coding.codec == "jpeg" and not zipped
    return {
        "path": level.path,
        "width": level.width,
        "height": level.height,
        "tile_width": level.tile_width,
        "tile_height": level.tile_height,
        "shard_rows": level.shard_rows,
        "shard_columns": level.shard_columns,
        "downsample": level.downsample,
        "jpeg": {"rgb": coding.colour == "RGB", "tables": tables} if direct else None,
    }
