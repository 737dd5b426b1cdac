"""Detection of background, unscanned padding and pen ink."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from histomake.base.units import Mpp

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Glass is bright and, even if tinted, has far less chroma than stain.
GLASS_MIN, GLASS_MAX_CHROMA = 170, 60
# Scanners fill unscanned areas with black or nearly black.
PADDING_MAX = 24
# Pen strokes are a third of a millimetre wide or wider; margin dye on tissue edges and pigment are narrower.
STROKE_UM = 100.0
# Maximum distance of the pale rim of a stroke from its saturated centre.
RIM_UM = 150.0
# Width of the soft outer edge of a stroke, which has no chroma.
EDGE_UM = 24.0
# If a larger share of all coloured pixels looks like ink, it is a stain (trichrome, alcian blue), not a pen.
MAX_SHARE = 0.6


def channel_extremes(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the smallest and the largest channel of every pixel, uint8 (h, w) each.

    Tens of times faster than numpy's min and max over an axis of length three.
    """
    red, green, blue = cv2.split(image)
    low, high = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    return np.asarray(low, np.uint8), np.asarray(high, np.uint8)


def chroma(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the largest minus the smallest channel. Unlike HSV saturation, it does not amplify noise in dark areas."""
    low, high = channel_extremes(image)
    return high - low


def find_padding(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Find unscanned black areas connected to the image border, with their blurred rim: RGB uint8 to bool (h, w)."""
    dark = (channel_extremes(image)[1] <= PADDING_MAX).astype(np.uint8)
    if not dark.any():
        return dark.astype(bool)
    _, labels = cv2.connectedComponents(dark, connectivity=4)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    padding = np.isin(labels, np.unique(border[border > 0])).astype(np.uint8)
    return cv2.dilate(padding, np.ones((5, 5), np.uint8)).astype(bool)


def find_glass(image: NDArray[np.uint8], padding: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """Return the colour of glass, float64 (3,): RGB from 0 to 255; None on a slide that shows hardly any.

    Glass is estimated from the upper end of the bright pixels, not from the most frequent level, because a slide full
    of pale tissue shows little glass.
    """
    sample = image[::2, ::2]
    low, high = channel_extremes(sample)
    glass = (low >= GLASS_MIN) & (high - low <= GLASS_MAX_CHROMA) & ~padding[::2, ::2]
    if glass.mean() <= 0.01:
        return None
    bright = sample[glass]
    level = np.percentile(bright[:, 1], 90)
    near = bright[np.abs(bright[:, 1] - level) <= 4]
    if not len(near):  # in a small image, where the percentile can lie between two far levels
        return None
    return np.asarray(np.median(near, axis=0), np.float64)


def whiten(
    image: NDArray[np.uint8], padding: NDArray[np.bool_], glass: NDArray[np.float64] | None
) -> NDArray[np.uint8]:
    """Scale the channels so that glass becomes white, and fill unscanned padding with white.

    ``glass``: its colour, from `find_glass`; without it the channels stay as they are. Input and result: RGB uint8
    (h, w, 3).
    """
    white = np.full(3, 255.0) if glass is None else glass
    tables = [np.clip(np.arange(256) * 255.0 / w + 0.5, 0, 255).astype(np.uint8) for w in white]
    balanced = np.asarray(cv2.merge([cv2.LUT(image[..., c], tables[c]) for c in range(3)]), np.uint8)
    balanced[padding] = 255
    return balanced


def find_ink(image: NDArray[np.uint8], mpp: Mpp) -> NDArray[np.bool_]:
    """Detect pixels covered by pen ink: green, blue, black or saturated red strokes.

    Seeds are pixels of a colour that haematoxylin, eosin and DAB do not have, in strokes at least ``STROKE_UM`` wide.
    They are extended into the paler pixels around them.

    Args:
        image: RGB, uint8 (h, w, 3), white-balanced if the glass is tinted.
        mpp: Resolution of ``image`` in µm per pixel.

    Returns:
        bool (h, w).
    """
    strong, weak = _ink_coloured(image)
    seed = _disk(strong, cv2.MORPH_OPEN, STROKE_UM / 2 / mpp)
    if not seed.any():
        return seed
    near = _disk(seed, cv2.MORPH_DILATE, RIM_UM / mpp)
    ink = _disk(seed | (near & (strong | weak)), cv2.MORPH_DILATE, EDGE_UM / mpp)
    coloured = chroma(image) > 30
    if (ink & coloured).sum() > MAX_SHARE * max(1, int(coloured.sum())):
        return np.zeros_like(ink)
    return ink


def _ink_coloured(image: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the pixels with a colour that only ink has, and the pixels that may be its pale rim."""
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL))
    colour = chroma(image)

    def between(low: float, high: float) -> NDArray[np.bool_]:
        low8, high8 = low * 256 / 360, high * 256 / 360
        return (hue >= low8) & (hue <= high8)

    # Ink on dark tissue is dark and has little chroma, but is still saturated.
    green, blue, red = between(75, 200), between(200, 252), between(0, 14) | between(346, 360)
    strong = green & ((colour > 50) | ((colour > 20) & (saturation > 100)))
    strong |= blue & (colour > 40) & (saturation > 160)
    strong |= red & (colour > 60) & (saturation > 190)
    strong |= (value < 75) & (colour < 28)
    weak = green & (colour > 20)
    weak |= blue & (colour > 30) & (saturation > 90)
    weak |= red & (colour > 50) & (saturation > 150)
    weak |= (value < 130) & (colour < 35)
    return strong, weak


def _disk(mask: NDArray[np.bool_], operation: int, radius_px: float) -> NDArray[np.bool_]:
    size = 2 * max(1, round(radius_px)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.morphologyEx(mask.astype(np.uint8), operation, kernel).astype(bool)
