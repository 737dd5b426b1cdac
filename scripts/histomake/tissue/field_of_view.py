"""Recognition of fields of view: small images that show tissue everywhere and no glass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from histomake.tissue.ink import channel_extremes, chroma

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_MM2 = 10.0
"""Larger images are slides. A slide has glass somewhere, and a wrong answer would cost more."""

LEAST_GLASS = 0.05
"""Glass is a connected area of at least this share of the image, or larger than the holes that are filled."""

# Glass is bright, hardly coloured and smooth, both as scanned and after the brightest colour is balanced to white. The
# first excludes pale tissue without anything white next to it, the second tinted glass of warm or weak lamps.
SCANNED_MIN, SCANNED_CHROMA = 150, 40
BALANCED_MIN, BALANCED_CHROMA = 210, 20
BALANCED_WHITE, BRIGHTEST_PERCENT = 240.0, 99.0
MAX_ROUGHNESS = 3.0
"""Standard deviation in grey levels of 3 x 3 pixels of glass."""

TISSUE_CHROMA, TISSUE_SHARE = 15, 0.1
"""An image of tissue is coloured: at least this share of its pixels, by at least this much."""


def is_field_of_view(image: NDArray[np.uint8], mpp: float, *, max_hole_um2: float) -> bool:
    """Return whether an image, RGB uint8 (h, w, 3), is a small field of tissue without glass.

    ``mpp``: its resolution, in µm per pixel, about that of tissue detection. ``max_hole_um2``: size of the holes in
    tissue that are filled. Lumina and vacuoles up to this size, or up to ``LEAST_GLASS`` of the image, are not glass.
    """
    area_um2 = image.shape[0] * image.shape[1] * mpp**2
    coloured = (chroma(image) >= TISSUE_CHROMA).mean() >= TISSUE_SHARE
    if area_um2 > MAX_MM2 * 1e6 or not coloured:
        return False
    _, _, stats, _ = cv2.connectedComponentsWithStats(_glass(image).astype(np.uint8), connectivity=4)
    largest = stats[1:, cv2.CC_STAT_AREA].max(initial=0) * mpp**2
    return bool(largest < min(max_hole_um2, LEAST_GLASS * area_um2))


def _glass(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels that look like glass, bool (h, w)."""
    brightest = np.percentile(image.reshape(-1, 3), BRIGHTEST_PERCENT, axis=0)
    balanced = np.clip(image * (BALANCED_WHITE / np.maximum(brightest, 1)), 0, 255).astype(np.uint8)
    grey = image.astype(np.float32).mean(axis=2)
    mean = cv2.blur(grey, (3, 3))
    roughness = np.sqrt(np.maximum(cv2.blur(grey * grey, (3, 3)) - mean * mean, 0))
    scanned = (channel_extremes(image)[0] > SCANNED_MIN) & (chroma(image) <= SCANNED_CHROMA)
    white = (channel_extremes(balanced)[0] > BALANCED_MIN) & (chroma(balanced) <= BALANCED_CHROMA)
    return np.asarray(scanned & white & (roughness < MAX_ROUGHNESS), bool)
