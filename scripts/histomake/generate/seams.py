"""Whether the windows in which a virtual slide was made can be seen, and whether its glass stayed as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.windows import tiled
from histomake.generate.store import WINDOW

if TYPE_CHECKING:
    from numpy.typing import NDArray

Read = Callable[[int, int, int, int], "NDArray[np.uint8]"]
Tissue = Callable[[int, int, int, int], "NDArray[np.bool_]"]

APART = 16
"""Pixels between a border and the lines beside it: a multiple of the edge of JPEG's blocks."""

BORDERS = 64
"""Most borders of windows that are measured, spread over the slide."""

GLASS_WINDOWS = 16
GLASS_PX = 128
"""Windows without tissue that are compared, and their edge."""

LUMINANCE = np.array([0.299, 0.587, 0.114])
"""Weights of R, G, B. JPEG may store colours at half the resolution, which makes the edges of tiles visible in them."""


def seam_ratio(read: Read, unbroken: Read, tissue: Tissue, width: int, height: int) -> float | None:
    """How much more neighbouring pixels differ across borders of windows than in windows that span these borders.

    Args:
        read: Pixels of a box (x, y, width, height) of the virtual slide.
        unbroken: Pixels of a box as one window.
        tissue: Which pixels of a box are tissue. Others are not counted.
        width: Width of the slide, in pixels.
        height: Its height.

    The mean difference in luminance across borders is divided by that of the same pixels in one window, so that what
    the tissue shows there does not count; and the result by the same for lines beside the borders, so that the edges
    of JPEG's blocks do not count. 1 means that borders cannot be found. None if the slide has no border in tissue.
    """
    borders = list(_borders(width, height))
    across, beside = np.zeros(2), np.zeros(2)
    for n in np.unique(np.linspace(0, len(borders) - 1, BORDERS).astype(int)) if borders else ():
        box, upright = borders[n]
        inside, *pictures = tissue(*box), read(*box) @ LUMINANCE, unbroken(*box) @ LUMINANCE
        if not upright:
            inside, *pictures = (image.T for image in (inside, *pictures))
        for line, total in ((2 * APART, across), (APART, beside), (3 * APART, beside)):
            chosen = inside[:, line] & inside[:, line - 1]
            total += [np.abs(image[:, line] - image[:, line - 1])[chosen].sum() for image in pictures]
    if not (across.all() and beside.all()):
        return None
    return float(across[0] / across[1] / (beside[0] / beside[1]))


def _borders(width: int, height: int) -> Iterator[tuple[tuple[int, int, int, int], bool]]:
    """Boxes (x, y, width, height) around all borders of windows, and whether the border is upright."""
    for tile in tiled((height, width), WINDOW):
        if tile.x and tile.x + 2 * APART <= width:
            yield (tile.x - 2 * APART, tile.y, 4 * APART, tile.height), True
        if tile.y and tile.y + 2 * APART <= height:
            yield (tile.x, tile.y - 2 * APART, tile.width, 4 * APART), False


def glass_change(before: Read, after: Read, tissue: Tissue, width: int, height: int) -> float | None:
    """Mean absolute change, in grey levels, of windows without tissue; None if there are none."""
    boxes = [(w.x, w.y, w.width, w.height) for w in tiled((height, width), GLASS_PX)]
    empty = [box for box in boxes if not tissue(*box).any()]
    if not empty:
        return None
    chosen = [empty[n] for n in np.unique(np.linspace(0, len(empty) - 1, GLASS_WINDOWS).astype(int))]
    return float(np.mean([np.abs(after(*box).astype(np.int16) - before(*box)).mean() for box in chosen]))
