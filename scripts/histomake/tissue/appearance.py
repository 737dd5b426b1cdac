"""How the glass and the tissue of a slide look: brightness, and strength and hue of the stains."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from skimage.color import hed_from_rgb

from histomake.base.records.quality import Appearance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]

DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
"""Optical density by grey level."""
FIRST_HUE = -80.0
"""Hues are given from here on, in degrees, because hardly any stain has the green at the ends of this range."""
NO_COLOUR = 0.02
"""Tissue whose chroma, as a share of its density, is below this has no hue."""


def measure_appearance(
    image: NDArray[np.uint8], tissue: Bools, artefacts: Bools, glass: NDArray[np.float64] | None
) -> Appearance:
    """Measure the colours of a brightfield slide.

    Medians of each channel's optical density come first and the hue is that of these medians, because the hue of a
    single pale pixel is noise.

    Args:
        image: RGB uint8 (h, w, 3), with glass balanced to white.
        tissue: The tissue mask, bool (h, w), with at least one pixel.
        artefacts: Pixels under an artefact, bool (h, w), which are left out unless all tissue is.
        glass: Colour of the glass before it was balanced, (3,), or None.
    """
    clean = tissue & ~artefacts
    pixels = image[clean if clean.any() else tissue]
    densities = np.array([np.median(DENSITY[pixels[:, c]]) for c in range(3)], np.float64)
    haematoxylin, eosin = (float(np.median(_amount(pixels, stain))) for stain in (0, 1))
    return Appearance(
        glass_brightness=None if glass is None else round(float(glass.mean()), 1),
        glass_colour=None if glass is None else round(float(np.ptp(glass)), 1),
        density=round(float(densities.mean()), 4),
        hue=_hue(densities),
        haematoxylin=round(haematoxylin, 4),
        eosin=round(eosin, 4),
    )


def _amount(pixels: NDArray[np.uint8], stain: int) -> NDArray[np.float32]:
    """Density of a stain, 0 haematoxylin or 1 eosin, of pixels (n, 3): float32 (n,)."""
    amount = np.zeros(len(pixels), np.float32)
    for channel in range(3):
        amount += (DENSITY * np.float32(hed_from_rgb[channel, stain]))[pixels[:, channel]]
    return amount


def _hue(densities: NDArray[np.float64]) -> float | None:
    """Angle in the chromatic plane of the HSD model, in degrees; ``densities``: R, G, B (van der Laak et al. 2000)."""
    mean = float(densities.mean())
    if mean <= 0:
        return None
    red, green, blue = (float(value) / mean for value in densities)
    across, along = red - 1, (green - blue) / math.sqrt(3)
    if math.hypot(across, along) < NO_COLOUR:
        return None
    return round((math.degrees(math.atan2(along, across)) - FIRST_HUE) % 360 + FIRST_HUE, 1)
