"""Boxes of a slide in pixels of any resolution, all on one lattice, so that boxes beside each other have no seam."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.units import Mpp
from histomake.slide.reader import SAME_SCALE, SlideReader

if TYPE_CHECKING:
    from numpy.typing import NDArray


class SlideLattice:
    """The pixels of a slide at about ``mpp`` µm per pixel.

    Pixels of a level whose resolution differs by less than 1 % are taken as they are. Otherwise a pixel is the mean of
    what it covers or, of a coarser slide, interpolated between the nearest ones; both by its place on the whole slide.
    `SlideReader.read` rounds the corner of each box instead, which would show at the edges of windows.

    Attributes:
        width, height: Size of the slide, in pixels of the lattice.
        mpp: Resolution of the lattice, in µm per pixel.
        downsample: Edge of a pixel, in level-0 pixels.
    """

    def __init__(self, reader: SlideReader, mpp: Mpp) -> None:
        self.reader, self.level = reader, reader.level_for(mpp)
        level = reader.levels[self.level]
        scale = mpp / reader.mpp / level.downsample
        self.scale = 1.0 if abs(scale - 1) <= SAME_SCALE else scale
        self.downsample = level.downsample * self.scale
        self.mpp = Mpp(reader.mpp * self.downsample)
        self.width, self.height = (max(1, math.floor(n / self.scale + 1e-9)) for n in (level.width, level.height))

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels uint8 (height, width, 3) of a box; white outside the slide. Raises SlideError for a damaged tile."""
        if self.scale == 1:
            return self.reader.read_level(self.level, x, y, width, height)
        left, across = resampling(x, width, self.scale)
        top, down = resampling(y, height, self.scale)
        pixels = self.reader.read_level(self.level, left, top, across.shape[1], down.shape[1]).astype(np.float32)
        rows = np.tensordot(down, pixels, (1, 0))
        mixed = np.tensordot(rows, across, (1, 1)).transpose(0, 2, 1)
        return np.asarray(np.rint(mixed).clip(0, 255), np.uint8)


def resampling(start: int, count: int, scale: float) -> tuple[int, NDArray[np.float32]]:
    """First source pixel, and weights float32 (count, source pixels) of output pixels ``start`` to ``start + count``.

    An output pixel is ``scale`` source pixels wide. Weights are the covered shares of source pixels or, where output
    pixels are smaller than those, linear between the centres of two.
    """
    index = np.arange(start, start + count)
    if scale >= 1:
        low, high = index * scale, (index + 1) * scale
    else:
        centre = (index + 0.5) * scale - 0.5
        low, high = centre, centre + 1
    first, end = math.floor(low[0]), math.ceil(high[-1] + 1)
    source = np.arange(first, end)
    if scale >= 1:
        shares = np.minimum(high[:, None], source + 1) - np.maximum(low[:, None], source)
    else:
        shares = 1 - np.abs(centre[:, None] - source)
    weights = np.maximum(shares, 0)
    return first, np.asarray(weights / weights.sum(1, keepdims=True), np.float32)
