"""A picture of patches of several slides, each with a line below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from histomake.base.layout import Layout
from histomake.base.units import Level0Pixels
from histomake.config import Grid
from histomake.pictures import canvas
from histomake.slide.reader import open_slide

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN_PX = 160
COLUMNS = 6

Place = tuple[str, int, int, str]
"""Slide, x and y in level-0 pixels, and the line above the patch."""


def patch_sheet(layout: Layout, grid: Grid, places: Sequence[Place], *, title: str) -> NDArray[np.uint8]:
    """Patches of ``grid`` at their places, in rows, as a picture uint8 (h, w, 3)."""
    pictures = []
    for slide, x, y, line in places:
        with open_slide(layout.manifest(slide)) as reader:
            pixels = reader.read(Level0Pixels(x), Level0Pixels(y), grid.size, grid.mpp)
        shown = cv2.resize(pixels, (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_AREA)
        pictures.append(canvas.headed(np.asarray(shown, np.uint8), line))
    return canvas.headed(canvas.in_rows(pictures, COLUMNS), title)
