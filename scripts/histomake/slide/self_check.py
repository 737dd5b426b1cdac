"""Comparison of the pixels that our reader and the codecs of zarr-python decode from a new store.

Other programs read the store through zarr-python and its codecs, not through `SlideReader`. Where a stream
allows two interpretations, colours would differ between a model and what a person sees. The functions of these codecs
are called directly: importing zarr would double the time of a small slide.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histomake.slide.codec import TileDecodeError
from histomake.slide.reader import SlideReader
from histomake.slide.sources.base import UnsupportedSlideError
from histomake.slide.store import Store, StoreLevel

TILES = 2
"""Tiles that are compared of each coding: the largest, which has the most content, and the last."""


def check_store(store: Path, slide_id: str) -> None:
    """Compare tiles of a store; of levels that are coded alike, the finest stands for all.

    Raises UnsupportedSlideError if the two readers differ, and SlideError if one of the tiles cannot be decoded.
    """
    with SlideReader(store, slide_id=slide_id) as reader:
        compared = set()
        for index, level in enumerate(reader.levels):
            kind = level.coding, level.tile_shape
            sampled = [] if kind in compared else _sampled(reader, index)
            if sampled:
                compared.add(kind)
                _compare(store, reader, index, sampled)


def _compare(store: Path, reader: SlideReader, index: int, tiles: list[tuple[int, int]]) -> None:
    level, stored = reader.levels[index], Store(store)
    for row, column in tiles:
        x, y, width, height = _box(level, row, column)
        ours = reader.read_level(index, x, y, width, height)
        place = f"the tiles of level {index} can be read in two ways: at row {row}, column {column}"
        try:
            theirs = level.coding.decode_as_stated(stored.tile(index, row, column) or b"", level.tile_shape)
        except TileDecodeError as error:
            raise UnsupportedSlideError(f"{place} zarr-python cannot decode what the reader of patches can") from error
        if not np.array_equal(ours, theirs[:height, :width]):
            raise UnsupportedSlideError(
                f"{place} zarr-python and the reader of patches differ by up to "
                f"{_difference(ours, theirs[:height, :width])} grey levels"
            )


def _sampled(reader: SlideReader, index: int) -> list[tuple[int, int]]:
    sizes = reader.tile_sizes(index)
    stored = np.argwhere(sizes)
    if not len(stored):
        return []
    largest = np.unravel_index(int(np.argmax(sizes)), sizes.shape)
    places = {(int(row), int(column)) for row, column in (largest, stored[-1])}
    return sorted(places)[:TILES]


def _box(level: StoreLevel, row: int, column: int) -> tuple[int, int, int, int]:
    x, y = column * level.tile_width, row * level.tile_height
    return x, y, min(level.tile_width, level.width - x), min(level.tile_height, level.height - y)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> int:
    return int(np.abs(ours.astype(int) - theirs).max())
