"""A slide reader over one RGB array in memory, for tests of code that reads slides."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np


class ArrayReader:
    """Implements `read` and `read_whole` on ``image`` (h, w, 3) uint8 at ``mpp``; white outside."""

    def __init__(self, image: np.ndarray, mpp: float) -> None:
        self.image = image
        self.mpp = mpp
        self.path = Path("memory")
        self.height, self.width = image.shape[:2]

    def read(self, x: int, y: int, size: int | tuple[int, int], mpp: float) -> np.ndarray:
        """Read an RGB region; x, y in level-0 pixels, size in pixels at ``mpp``."""
        w, h = (size, size) if isinstance(size, int) else size
        scale = mpp / self.mpp
        w0, h0 = math.ceil(w * scale), math.ceil(h * scale)
        region = np.full((h0, w0, 3), 255, np.uint8)
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + w0, self.width), min(y + h0, self.height)
        if left < right and top < bottom:
            region[top - y : bottom - y, left - x : right - x] = self.image[top:bottom, left:right]
        return region if (w, h) == (w0, h0) else cv2.resize(region, (w, h), interpolation=cv2.INTER_AREA)

    def read_whole(self, mpp: float) -> np.ndarray:
        """Read the whole slide at ``mpp``."""
        size = math.ceil(self.width * self.mpp / mpp), math.ceil(self.height * self.mpp / mpp)
        return self.read(0, 0, size, mpp)
