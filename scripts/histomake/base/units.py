"""Owns the units: which space a coordinate or a length lives in.

Positions are integer level-0 pixels ``(x, y)``, top-left, x to the right. Arrays are ``(y, x, c)``.
"""

from typing import NewType

Level0Pixels = NewType("Level0Pixels", int)
"""A position or length in pixels of the slide's finest level."""

PatchPixels = NewType("PatchPixels", int)
"""A length in pixels of a patch at the patch's own mpp."""

Microns = NewType("Microns", float)
"""A length on the glass, in micrometres."""

Mpp = NewType("Mpp", float)
"""A resolution: micrometres per pixel."""
