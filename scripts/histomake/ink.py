"""Owns recognising pen ink by its colour: marks on the glass that are not tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Pen tips are a third of a millimetre and wider; margin dye on tissue edges and pigment are finer.
STROKE_UM = 100.0
# The pale rim of a stroke reaches this far from its saturated middle.
RIM_UM = 150.0
# Ink on more than this share of all coloured glass is a stain (trichrome, alcian blue), not a pen.
MAX_SHARE = 0.6


def find_ink(image: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Pixels covered by pen ink: green, blue, black or saturated red strokes.

    Seeds are pixels of a colour that haematoxylin, eosin and DAB do not take, in strokes at least ``STROKE_UM``
    wide; each seed then grows into the paler pixels of its own colour around it.

    Args:
        image: RGB, uint8 (h, w, 3), white-balanced if the glass is tinted.
        mpp: its resolution in µm per pixel.

    Returns:
        bool (h, w).
    """
    ink = np.zeros(image.shape[:2], bool)
    for strong, weak in _colours(image):
        seed = _disk(strong, cv2.MORPH_OPEN, STROKE_UM / 2 / mpp)
        if seed.any():
            near = _disk(seed, cv2.MORPH_DILATE, RIM_UM / mpp)
            ink |= seed | (near & (strong | weak))
    if ink.any():
        coloured = np.ptp(image, axis=2) > 30
        if (ink & coloured).sum() > MAX_SHARE * max(1, coloured.sum()):
            return np.zeros_like(ink)
    return ink


def _colours(image: NDArray[np.uint8]) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Strong and weak masks of each ink colour."""
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL))
    chroma = np.ptp(image, axis=2)

    def between(low: float, high: float) -> NDArray[np.bool_]:
        low8, high8 = low * 256 / 360, high * 256 / 360
        return (hue >= low8) & (hue <= high8)

    green = between(75, 200)
    blue = between(200, 252)
    red = between(0, 14) | between(346, 360)
    return [
        (green & (chroma > 50), green & (chroma > 20)),
        (blue & (chroma > 70) & (saturation > 115), blue & (chroma > 30) & (saturation > 50)),
        (red & (chroma > 130) & (saturation > 185), red & (chroma > 70) & (saturation > 120)),
        ((value < 75) & (chroma < 28), (value < 130) & (chroma < 35)),
    ]


def _disk(mask: NDArray[np.bool_], operation: int, radius_px: float) -> NDArray[np.bool_]:
    size = 2 * max(1, round(radius_px)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.morphologyEx(mask.astype(np.uint8), operation, kernel).astype(bool)
