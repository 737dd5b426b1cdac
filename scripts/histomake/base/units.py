"""Units of positions, lengths and resolutions.

Public functions state the unit of a position, a length or a resolution with these types. Whole level-0 pixels are
``(x, y)``, top-left corner, x to the right; arrays are ``(y, x, c)``. Inside a function, and for lengths that are not
whole pixels, values are plain numbers.
"""

from __future__ import annotations

from typing import NewType

Level0Pixels = NewType("Level0Pixels", int)
"""A position or length in pixels of the slide's finest level."""

PatchPixels = NewType("PatchPixels", int)
"""A length in pixels of a patch at the patch's own mpp."""

Microns = NewType("Microns", float)
"""A length on the slide, in micrometres."""

Mpp = NewType("Mpp", float)
"""A resolution: micrometres per pixel."""


def enlarged_too_much(mpp: Mpp, to: Mpp, limit: float) -> bool:
    """Whether pixels of ``mpp`` would be enlarged more than ``limit`` times to look like pixels of ``to``."""
    # Stated resolutions are rounded: the last digit must not decide about a slide that is exactly at the limit.
    return mpp / to > limit * (1 + 1e-6)


def rescale(length: float, mpp: Mpp, to: Mpp) -> float:
    """Length in pixels at ``to`` of ``length`` pixels at ``mpp``; a float, because magnifications rarely divide."""
    return length * mpp / to
