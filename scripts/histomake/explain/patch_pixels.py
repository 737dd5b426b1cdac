"""Read the patches to explain with the same preprocessing as in prediction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.errors import HistomakeError
from histomake.base.records.record import Quarantined
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.data.reading import PatchReader
from histomake.learn.inference.predict import Predictor, slide_patches

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH = 128


class NothingToExplainError(HistomakeError):
    """No patch is left to explain a model on; ``left_out``: the damaged slides among those that it is explained on."""

    def __init__(self, message: str, left_out: list[Quarantined]) -> None:
        super().__init__(message)
        self.left_out = left_out


def read_patches(predictor: Predictor, entry: SlideEntry, patch_ids: NDArray) -> Iterator[NDArray[np.uint8]]:
    """Yield pixels uint8 (n, h, w, 3 · views) of a slide's patches, BATCH at a time, in the order of ``patch_ids``.

    Raises SlideError for a patch that is damaged, HistomakeError for one that does not fit the model.
    """
    patches = slide_patches(predictor, entry)
    row = {int(patch): i for i, patch in enumerate(patches.patch_id)} if patches else {}
    missing = [int(patch) for patch in patch_ids if int(patch) not in row]
    if missing:
        raise HistomakeError(f"slide {entry.slide_id}: {entry.table} has no usable patch {missing[0]}; run tabulate")
    if patches is None:
        return  # no patches were requested
    reader = PatchReader(patches, predictor.task.model, stain=predictor.stain)
    index = np.array([row[int(patch)] for patch in patch_ids], np.int64)
    for start in range(0, len(index), BATCH):
        part = index[start : start + BATCH]
        pixels, errors = reader.read(part, patches.x[part], patches.y[part])
        if errors:
            raise next(iter(errors.values()))
        yield pixels
