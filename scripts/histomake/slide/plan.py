"""Layout of a store: its pyramid levels and their division into tiles and shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from histomake.config import Convert
from histomake.slide.codec import TileCoding
from histomake.slide.encode import BLOCK_TILES
from histomake.slide.sources.base import SourceLevel
from histomake.slide.store import StoreLevel

PYRAMID_TOP_PX = 1024
"""Halving stops once the longer side of a level is at most this long."""

EXTEND_ABOVE_PX = 4096
"""If a slide already has a pyramid, levels are added only if the longer side of its coarsest level exceeds this."""


def plan_levels(source: Sequence[SourceLevel], config: Convert) -> list[StoreLevel]:
    """Return the levels of the store: those of the source, then halvings of the coarsest level where needed.

    Tiles of levels with a ``coding`` are copied.
    """
    levels = [lay_out(level, source[0], f"{i}", config) for i, level in enumerate(source)]
    longest = max(levels[-1].width, levels[-1].height)
    if len(levels) > 1 and longest <= EXTEND_ABOVE_PX:
        return levels
    while max(levels[-1].width, levels[-1].height) > PYRAMID_TOP_PX:
        last = levels[-1]
        half = SourceLevel(-(-last.width // 2), -(-last.height // 2), config.tile_px, config.tile_px)
        layout = lay_out(half, source[0], f"{len(levels)}", config)
        levels.append(replace(layout, downsample=last.downsample * 2))
    return levels


def copied_levels(source: Sequence[SourceLevel], config: Convert) -> tuple[SourceLevel, ...]:
    """Return the levels of a source without the coding of those that are encoded again.

    With zstd nothing is copied: it is the codec that every reader of OME-Zarr has.
    """
    return tuple(replace(level, coding=None) for level in source) if config.codec == "zstd" else tuple(source)


def lay_out(level: SourceLevel, finest: SourceLevel, path: str, config: Convert) -> StoreLevel:
    """Return the store level at ``path`` for a level of a source. Copied tiles keep their size."""
    copied = level.coding is not None
    tile_width, tile_height = (level.tile_width, level.tile_height) if copied else (config.tile_px, config.tile_px)
    quality = None if config.codec == "zstd" else config.quality
    layout = StoreLevel(
        path=path,
        width=level.width,
        height=level.height,
        tile_width=tile_width,
        tile_height=tile_height,
        shard_rows=1,
        shard_columns=1,
        downsample=downsample_between(finest, level),
        coding=level.coding or TileCoding(config.codec, quality=quality),
    )
    rows, columns = layout.grid
    return replace(
        layout,
        shard_rows=_shard_tiles(rows, config.shard_px // tile_height),
        shard_columns=_shard_tiles(columns, config.shard_px // tile_width),
    )


def _shard_tiles(grid: int, wanted: int) -> int:
    """Return the number of tiles along a shard, a multiple of BLOCK_TILES, so that no block spans two shard bands."""
    wanted = max(BLOCK_TILES, wanted // BLOCK_TILES * BLOCK_TILES)
    return min(wanted, -(-grid // BLOCK_TILES) * BLOCK_TILES)


def downsample_between(finest: SourceLevel, level: SourceLevel) -> float:
    """Return the number of pixels of ``finest`` along each side of one pixel of ``level``.

    Scanners reduce by whole factors and drop or add the last partial pixel, so width / width gives values such as
    16.0018, which shift the far edge by whole pixels. A whole factor is preferred if it explains both sides to within
    one pixel.
    """
    ratios = finest.width / level.width, finest.height / level.height
    factor = round(sum(ratios) / 2)
    sides = ((finest.width, level.width), (finest.height, level.height))
    if factor >= 1 and all(abs(full / factor - part) < 1 for full, part in sides):
        return float(factor)
    return sum(ratios) / 2
