"""Order of the patches of a slide in which those of a batch are neighbours, so that they share decoded tiles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def block_order(x: NDArray[np.integer], y: NDArray[np.integer], batch: int) -> NDArray[np.int64]:
    """Positions int64 (n,) of the patches of one slide at ``x``, ``y``, in the order of square blocks of ``batch``.

    Rows of the grid are taken together in bands of about sqrt(batch), and a band is read from left to right. A batch of
    64 patches in one row touches 130 tiles if the grid is not aligned with them, one of 8 x 8 patches 81.
    """
    rows = np.unique(y, return_inverse=True)[1]
    return np.lexsort((y, x, rows // max(1, math.isqrt(batch))))
