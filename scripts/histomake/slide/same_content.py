"""Whether two images show the same field: a level and the finer one that it was made from, a thumbnail and its slide.

Shape alone is not sufficient. A page with the aspect ratio of the slide can be another field, and a card with the name
of the patient can have the shape of a thumbnail.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from histomake.slide.sources.base import DamagedTilesError, SourceLevel

Read = Callable[[int, int, int, int], np.ndarray]
"""Function that reads a box (x, y, width, height) of a level as uint8 (h, w, 3)."""

PLACE_PX = 64
"""Edge of the places that are compared, in pixels of the coarser image."""

LEAST_PX = 16
FINE_PX = 512
"""Edge of a place in pixels of the finer image, if it is more than LEAST_PX in the coarser one."""

PLACES = 3
SHIFT_PX = 2
"""Shift between levels that is accepted, in pixels of the coarser one: scanners round, and resample differently."""

TEXTURE = 3.0
"""Standard deviation in grey levels above which a place can distinguish fields."""

CERTAIN, LIKELY = 0.9, 0.8
"""Correlation at which one place is enough, and which the mean of several must reach. Levels of one slide correlate
above 0.9, also if pixels were dropped or JPEG was coarse. Unrelated tissue stays below 0.5, and below 0.7 where a place
is the whole outline of a section."""

SAME_GREY = 16.0
"""Largest difference of means in grey levels between images without texture."""

THUMBNAIL_PX = 128
ASPECT = 0.05
"""Largest relative difference of aspect ratios between a slide and its thumbnail."""


def is_reduced(coarse: SourceLevel, read_coarse: Read, fine: SourceLevel, read_fine: Read, sizes: np.ndarray) -> bool:
    """Return whether ``coarse`` shows the content of ``fine`` at a lower resolution.

    Up to three places are compared, those with the most encoded bytes, which have the most texture. Without texture, or
    where tiles are damaged, only what can be compared counts.

    Args:
        coarse: The level in question.
        read_coarse: Reader of its pixels.
        fine: The level that it should show.
        read_fine: Reader of its pixels.
        sizes: Encoded bytes of each tile of ``coarse``, (rows, columns).
    """
    scores, plain = [], []
    for index in np.argsort(-sizes.astype(np.int64), axis=None, kind="stable")[:PLACES]:
        row, column = np.unravel_index(index, sizes.shape)
        if not sizes[row, column]:
            break
        try:
            shown, expected = _place(coarse, read_coarse, fine, read_fine, int(row), int(column))
        except DamagedTilesError:
            continue  # reported when the tile is copied or read
        if max(shown.std(), expected.std()) < TEXTURE or min(shown.shape) <= 2 * SHIFT_PX:
            plain.append(abs(float(shown.mean()) - float(expected.mean())))
            continue
        scores.append(_correlation(shown, expected))
        if scores[0] >= CERTAIN:
            return True
    if scores:
        return float(np.mean(scores)) >= LIKELY
    return not plain or max(plain) <= SAME_GREY


def _place(
    coarse: SourceLevel, read_coarse: Read, fine: SourceLevel, read_fine: Read, row: int, column: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a part of a tile, near its middle, in grey: from the coarser level and, reduced, from the finer one."""
    ratio = fine.width / coarse.width, fine.height / coarse.height
    edge = max(LEAST_PX, min(PLACE_PX, int(FINE_PX / max(ratio))))
    left, top = column * coarse.tile_width, row * coarse.tile_height
    right, bottom = min(left + coarse.tile_width, coarse.width), min(top + coarse.tile_height, coarse.height)
    width, height = min(edge, right - left), min(edge, bottom - top)
    # At a corner of a tile of the finer level, so that few of them have to be decoded.
    x = _aligned(left + (right - left - width) // 2, left, ratio[0], fine.tile_width)
    y = _aligned(top + (bottom - top - height) // 2, top, ratio[1], fine.tile_height)
    x0, y0 = int(x * ratio[0]), int(y * ratio[1])
    box = (
        max(1, min(round(width * ratio[0]), fine.width - x0)),
        max(1, min(round(height * ratio[1]), fine.height - y0)),
    )
    expected = cv2.resize(read_fine(x0, y0, *box), (width, height), interpolation=cv2.INTER_AREA)
    return _grey(read_coarse(x, y, width, height)), _grey(expected)


def _aligned(start: int, first: int, ratio: float, tile: int) -> int:
    """Return a start at or before ``start``, not before ``first``, near a multiple of ``tile`` finer pixels."""
    return max(first, round(start * ratio // tile * tile / ratio))


def _grey(pixels: np.ndarray) -> np.ndarray:
    return cv2.blur(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY), (3, 3))


def _correlation(shown: np.ndarray, expected: np.ndarray) -> float:
    inner = expected[SHIFT_PX:-SHIFT_PX, SHIFT_PX:-SHIFT_PX]
    if inner.std() < 1 or shown.std() < 1:
        return 0.0
    return float(cv2.matchTemplate(shown, inner, cv2.TM_CCOEFF_NORMED).max())


def is_thumbnail(picture: np.ndarray, width: int, height: int, slide: Callable[[int, int], np.ndarray]) -> bool:
    """Return whether ``picture`` shows the slide and nothing beside it, such as its label.

    Args:
        picture: The image in question, uint8 (h, w, 3).
        width: Width of the slide in pixels.
        height: Height of the slide in pixels.
        slide: Function that returns the whole slide as uint8 (height, width, 3), for a width and a height.
    """
    aspect = picture.shape[1] / picture.shape[0] / (width / height)
    if min(picture.shape[:2]) < LEAST_PX or abs(aspect - 1) > ASPECT:
        return False
    scale = THUMBNAIL_PX / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    shown = _grey(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    expected = _grey(slide(*size))
    if expected.std() < TEXTURE or min(size) <= 2 * SHIFT_PX:
        return False  # without texture, any picture could be of this slide
    return _correlation(shown, expected) >= CERTAIN
