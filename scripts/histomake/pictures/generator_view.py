"""Picture of samples of a generator beside the training fields that they are nearest to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from histomake.base.records.generator_measures import GeneratorMeasures
from histomake.pictures import canvas

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAIRS = 20
TILE_PX = 112
COLUMNS = 5


def nearest_view(
    record: GeneratorMeasures, pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
) -> NDArray[np.uint8]:
    """Draw the first pairs: a sample, marked as in silico, and the training field, both uint8 (s, s, 3)."""
    drawn = [canvas.beside([_tile(made), _tile(real)], 4) for made, real in pairs[:PAIRS]]
    title = f"{record.generator}: left samples (in silico), right the training fields most like them"
    return canvas.headed(canvas.in_rows(drawn, COLUMNS), title)


def _tile(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    method = cv2.INTER_AREA if len(image) > TILE_PX else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, (TILE_PX, TILE_PX), interpolation=method))
