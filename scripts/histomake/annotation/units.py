"""Warnings about a file whose coordinates or resolution seem not to be those of its slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histomake.annotation.drawn import SlideFrame

if TYPE_CHECKING:
    from numpy.typing import NDArray

MPP_TOLERANCE = 0.02
"""Relative difference of two statements of a resolution that rounding explains."""

LEAST_VALUES = 4
"""Fewer different coordinates can be multiples of the resolution by chance."""

WHOLE = 0.02
"""Distance from a whole number of pixels that rounding explains."""

DECIMALS = 0.005
"""Rounding of coordinates in µm, for programs that write two decimals."""


def doubtful_mpp(stated: str | None, slide: SlideFrame, source: str) -> list[str]:
    """Warn that a file states another resolution than its slide, in µm per pixel. 0 and an empty text state none."""
    try:
        found = float((stated or "0").replace(",", "."))
    except ValueError:
        return [f"{source} states a resolution of {stated!r}, which is not a number."]
    if not found or slide.mpp is None or abs(found / slide.mpp - 1) <= MPP_TOLERANCE:
        return []
    return [
        f"{source} states {found:.4g} µm per pixel, the slide has {slide.mpp:.4g}; it may have been drawn on another "
        f"image. Its coordinates are used as they are."
    ]


def doubtful_unit(points: NDArray[np.float64], slide: SlideFrame, source: str) -> list[str]:
    """Warn that coordinates, float64 (n, 2), may be in µm: in pixels of the slide they would be whole numbers.

    This holds for outlines that were drawn on pixels and then multiplied by the resolution, but not for free outlines
    in µm; see `histomake.patch.placement`.
    """
    mpp = slide.mpp
    if mpp is None or len(points) == 0 or abs(mpp - 1) <= MPP_TOLERANCE:
        return []
    width_um, height_um = slide.width * mpp, slide.height * mpp
    if (points > [width_um + 1, height_um + 1]).any():
        return []
    values = np.concatenate([np.unique(axis) for axis in points.T])
    whole = np.abs(values / mpp - np.round(values / mpp)) <= max(WHOLE, DECIMALS / mpp)
    already = np.abs(values - np.round(values)) <= WHOLE
    if len(values) < LEAST_VALUES or whole.mean() < 0.9 or already.mean() > 0.5:
        return []
    return [
        f"The coordinates of {source} may be in µm: at {mpp:.4g} µm per pixel, {whole.mean():.0%} of them are whole "
        f"pixels, and none lies beyond {width_um:.0f} x {height_um:.0f}, the size of the slide in µm. They are used as "
        "pixels."
    ]
