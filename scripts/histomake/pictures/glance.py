"""A slide at a glance: the whole of it, and a close view of its tissue beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from histomake.base.units import Level0Pixels, Mpp
from histomake.pictures.canvas import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

SIDE_PX = 240
"""Width and height of each of the two pictures."""
GAP_PX = 6
CLOSE_MPP = Mpp(1.0)
"""Resolution of the close view, in µm per pixel: cells, stain and focus can be judged."""


def glance(reader: SlideReader, close: Box | None) -> NDArray[np.uint8]:
    """Draw the slide and a close view, uint8 (240, 486, 3).

    ``close``: the part whose middle is shown closely; without it there is no close view.
    """
    sheet = np.full((SIDE_PX, 2 * SIDE_PX + GAP_PX, 3), 255, np.uint8)
    whole = reader.read_whole(Mpp(max(reader.mpp * max(reader.width, reader.height) / SIDE_PX, reader.mpp)))
    scale = SIDE_PX / max(whole.shape[:2])
    size = max(1, round(whole.shape[1] * scale)), max(1, round(whole.shape[0] * scale))
    shown = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    top, left = ((SIDE_PX - length) // 2 for length in shown.shape[:2])
    sheet[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    if close is not None:
        mpp = max(CLOSE_MPP, reader.mpp)
        edge = SIDE_PX * mpp / reader.mpp
        x, y = (Level0Pixels(round(close[i] + (close[i + 2] - edge) / 2)) for i in (0, 1))
        sheet[:, SIDE_PX + GAP_PX :] = reader.read(x, y, SIDE_PX, mpp)
    return sheet
