"""Vectors of an earlier choice of patches: another budget encodes only the patches that the earlier one did not.

The file of features of a slide has a second name among the caches, which stays when the file is made again. Vectors are
taken from it only if they are of the same slide, grid, encoder and code, and if the file has the digest that its own
job stated (`histomake.audit.caches.stated_digest`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_file, sha256_file
from histomake.base.records.features import FeatureColumn, FeatureRecord
from histomake.base.records.patch_table import PatchTableRecord
from histomake.features.choice import identity_of
from histomake.features.store import PLACES, Features, columns_of, read_features
from histomake.patch.grid import SlideGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeptFile:
    """A file of features of an earlier job: its second name, and the digest that its job stated, if one is known."""

    path: Path
    sha256: str | None


@dataclass(frozen=True)
class Expected:
    """What vectors must be of: sha256 of the slide, record of its patch table, column of the encoder, and code."""

    slide: str
    patches: PatchTableRecord
    column: FeatureColumn
    code: str

    def fits(self, record: FeatureRecord, column: FeatureColumn) -> bool:
        """Whether vectors of a column of a file are those that would be computed now."""
        same_slide = (record.sha256, record.grid, record.code) == (self.slide, self.patches.grid, self.code)
        same_scale = record.mpp == SlideGrid.of_table(self.patches).grid.mpp
        known = column.chooser is not None and column.identity == identity_of(self.column, column.chooser)
        return same_slide and same_scale and known and column.dtype == self.column.dtype


@dataclass(frozen=True)
class Vectors:
    """Vectors (n, d) of n patches, which of them are known, bool (n,), and the sha256 of the file they are from."""

    values: NDArray[Any]
    known: NDArray[np.bool_]
    source: str | None = None


def no_vectors(column: FeatureColumn, count: int) -> Vectors:
    """Room for the vectors of patches of which none is known."""
    return Vectors(np.zeros((count, column.dimensions), column.dtype), np.zeros(count, bool))


def keep(features: Path, place: Path) -> None:
    """Give a file of features a second name, which needs no room on the disk until the file is made again."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_file(place) as aside:
            os.link(features, aside)
    except OSError as error:
        log.info("another choice of patches will encode all of them: %s cannot be linked (%s)", features, error)


def known_vectors(kept: KeptFile | None, expected: Expected, places: Mapping[str, NDArray[Any]]) -> Vectors:
    """Vectors of the patches at ``places`` (``patch_id``, ``x``, ``y``) that an earlier file has."""
    found = no_vectors(expected.column, len(places["patch_id"]))
    features = None if kept is None else _read(kept)
    if kept is None or features is None or not isinstance(features.record, FeatureRecord):
        return found
    rows = _rows(features, places)
    for name, column in columns_of(features.record).items():
        if expected.fits(features.record, column):
            take = np.flatnonzero((rows >= 0) & ~found.known)
            take = take[features.given(name)[rows[take]]]
            found.values[take] = features.vectors(name)[rows[take]]
            found.known[take] = True
    return Vectors(found.values, found.known, kept.sha256) if found.known.any() else found


def _read(kept: KeptFile) -> Features | None:
    """The file, unless it is damaged, or not what its job wrote."""
    if kept.sha256 is None or sha256_file(kept.path) != kept.sha256:
        return None
    try:
        return read_features(kept.path)
    except HistomakeError as error:
        log.warning("%s is not used: %s", kept.path, error)
        return None


def _rows(features: Features, places: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Row of each patch in a file, int64 (n,); -1 for a patch that it does not have at this place."""
    count = len(features)
    if not count:
        return np.full(len(places["patch_id"]), -1)
    rows = np.minimum(np.searchsorted(features.patch_id, places["patch_id"]), count - 1)
    same = [features.table[name].to_numpy()[rows] == places[name] for name, _ in PLACES]
    return np.where(np.all(same, axis=0), rows, -1)
