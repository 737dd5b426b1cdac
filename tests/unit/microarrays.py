"""Tissue microarrays made of real tissue: cores at known places, rotated, shifted, missing or broken."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import cv2
import numpy as np

from tests.unit.scenes import MPP, cmu, glass


@dataclass(frozen=True)
class Microarray:
    """A grid of cores on glass; lengths in µm, places as (row, column) from 0.

    jitter: largest shift of a core along each axis; halved: cores without their lower half; torn: cores with a gap of a
    fifth of the diameter from left to right.
    """

    rows: int = 5
    columns: int = 7
    core: float = 600
    pitch: float = 900
    degrees: float = 0
    jitter: float = 0
    missing: Collection[tuple[int, int]] = ()
    halved: Collection[tuple[int, int]] = ()
    torn: Collection[tuple[int, int]] = ()
    margin: float = 700
    seed: int = 0
    places: dict[tuple[int, int], tuple[float, float]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Compute the centres, x and y in µm, of the cores that exist."""
        rng, turn = np.random.default_rng(self.seed), np.radians(self.degrees)
        column = np.array([np.cos(turn), np.sin(turn)]) * self.pitch
        row = np.array([-np.sin(turn), np.cos(turn)]) * self.pitch
        ends = np.array([r * row + c * column for r in (0, self.rows - 1) for c in (0, self.columns - 1)])
        first = self.margin - ends.min(axis=0)
        for r in range(self.rows):
            for c in range(self.columns):
                shift = rng.uniform(-self.jitter, self.jitter, 2)
                if (r, c) not in self.missing:
                    x, y = first + r * row + c * column + shift
                    self.places[r, c] = float(x), float(y)

    def image(self) -> np.ndarray:
        """The slide at MPP µm per pixel, RGB uint8 (h, w, 3)."""
        ends = np.array(list(self.places.values())).max(axis=0) + self.margin
        width, height = (round(end / MPP) for end in ends)
        slide, tissue = glass(height, width), dense(height, width)
        reach = int(self.core / 2 / MPP) + 2
        for place, (left, top) in self.places.items():
            x0, y0 = int(left / MPP) - reach, int(top / MPP) - reach
            part = np.s_[y0 : y0 + 2 * reach, x0 : x0 + 2 * reach]
            y, x = np.mgrid[part] + 0.5
            dx, dy = x - left / MPP, y - top / MPP
            inside = np.hypot(dx, dy) < self.core / 2 / MPP
            if place in self.halved:
                inside &= dy < 0
            if place in self.torn:
                inside &= np.abs(dy) > self.core / 10 / MPP
            slide[part][inside] = tissue[part][inside]
        return slide


def dense(height: int, width: int) -> np.ndarray:
    """Dense tissue of CMU-1 everywhere, mirrored at its edges, without a hole."""
    part = cmu()[330:742, 200:440]
    part = np.hstack([part, part[:, ::-1]])
    part = np.vstack([part, part[::-1]])
    part = cv2.medianBlur(part, 3)
    repeats = -(-height // part.shape[0]), -(-width // part.shape[1]), 1
    return np.tile(part, repeats)[:height, :width]
