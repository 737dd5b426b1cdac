"""Pale areas that are no glass, but paler than the threshold of tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from histomake.base.units import Mpp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]

BLUR_UM = 40.0
"""Noise of single pixels is averaged over this distance, which makes a difference of one grey level visible."""
LEAST_COLOUR = 0.8
"""Chroma, of 255, by which a pale area must exceed glass: below are steps between the tiles of a scan."""
DEVIATIONS = 6.0
"""Robust standard deviations of glass that a pale area must exceed."""
LEAST_WIDTH_UM = 200.0
"""Narrower areas are dust, hairs, scratches and the soft edges of tissue."""


def find_faint(image: NDArray[np.uint8], known: Bools, mpp: Mpp) -> Bools:
    """Find areas whose colour differs from glass, besides what is known.

    Colour is the largest minus the smallest channel: shadows, steps of stitching and coverslip edges are grey. It is
    averaged before, so that much paler tissue is seen than by the threshold of tissue, but not its outline.

    Args:
        image: RGB, uint8 (h, w, 3), with glass balanced to white.
        known: tissue, ink and unscanned areas, bool (h, w).
        mpp: resolution of ``image``, in µm per pixel.

    Returns:
        bool (h, w).
    """
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), BLUR_UM / mpp)
    colour = smooth.max(axis=2) - smooth.min(axis=2)
    near = cv2.distanceTransform((~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= 3 * BLUR_UM / mpp
    free = colour[~near]
    if free.size == 0:
        return np.zeros_like(known)
    glass = free[free <= np.median(free)]  # the upper half may be the pale tissue
    level = float(np.median(glass))
    noise = 1.4826 * float(np.median(np.abs(glass - level)))
    found = (colour > level + max(LEAST_COLOUR, DEVIATIONS * noise)) & ~near
    side = max(3, round(LEAST_WIDTH_UM / mpp) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_OPEN, kernel).astype(bool)
