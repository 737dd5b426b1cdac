"""Features of the patches of many slides, read from their files by rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.errors import HistomakeError
from histomake.base.records.features import FeatureColumn
from histomake.features.store import Features, read_features, rows_of
from histomake.learn.data.patch_index import PatchIndex

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FeatureReader:
    """Vectors of the patches of an index. Files are mapped into memory when they are first read.

    Args:
        patches: The patches.
        files: File of features of each slide, by id.
        name: Column of the vectors.

    Raises HistomakeError if slides have features of different encoders, or if a patch has none.
    """

    def __init__(self, patches: PatchIndex, files: Mapping[str, Path], name: str) -> None:
        self.patches, self.files, self.name = patches, files, name
        self._open: dict[int, tuple[Features, NDArray[np.floating]]] = {}
        self.column = self._common_column()
        self.rows = np.zeros(len(patches), np.int64)
        for slide in np.unique(patches.slide):
            mine = patches.slide == slide
            features, _ = self._features(int(slide))
            path = self._path(int(slide))
            self.rows[mine] = rows_of(features, patches.patch_id[mine], path=path)

    def require_same_weights(self, validation: FeatureReader) -> None:
        """Raise HistomakeError if the vectors of validation slides are of other weights or settings than these."""
        if validation.column.identity != self.column.identity:
            raise HistomakeError(
                f"features {self.name} of validation slides are of other weights; run the workflow again"
            )

    def _path(self, slide: int) -> Path:
        return self.files[self.patches.entries[slide].slide_id]

    def _features(self, slide: int) -> tuple[Features, NDArray[np.floating]]:
        if slide not in self._open:
            found = read_features(self._path(slide))
            self._open[slide] = found, found.vectors(self.name)
        return self._open[slide]

    def _common_column(self) -> FeatureColumn:
        columns = {
            int(slide): self._features(int(slide))[0].column(self.name) for slide in np.unique(self.patches.slide)
        }
        known = {slide: column for slide, column in columns.items() if column is not None}
        if not known:
            raise HistomakeError(f"no slide has features {self.name}")
        first = next(iter(known.values()))
        for slide, column in known.items():
            if column.identity != first.identity:
                raise HistomakeError(
                    f"{self._path(slide)} has features {self.name} of other weights or settings than the other slides; "
                    "run the workflow again"
                )
        return first

    def read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors float32 (n, d) of the patches at ``index``, in its order."""
        found = np.empty((len(index), self.column.dimensions), np.float32)
        slides = self.patches.slide[index]
        for slide in np.unique(slides):
            slots = np.flatnonzero(slides == slide)
            found[slots] = self._features(int(slide))[1][self.rows[index[slots]]]
        return found
