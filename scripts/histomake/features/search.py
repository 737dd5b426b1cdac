"""Search in the features of a cohort: the patches most similar to one, and prototypes of all patches.

Both compare by cosine. Files are read through memory maps, slide by slide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.cluster import KMeans

from histomake.base.errors import HistomakeError
from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined
from histomake.config import Grid
from histomake.features.store import Features, columns_of, read_features, rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS = 16_384
"""Patches that are compared at once."""

SAMPLED = 50_000
"""Largest number of patches from which prototypes are made; a cohort has more than are needed."""


@dataclass(frozen=True)
class FoundPatch:
    """A patch, its place in level-0 pixels, and the cosine of its features with those searched for."""

    slide: str
    patch_id: int
    x: int
    y: int
    similarity: float


@dataclass(frozen=True)
class Prototype:
    """A group of similar patches: its share of the sampled patches, and those nearest to its centre."""

    share: float
    slides: int
    patches: list[FoundPatch]


class FeatureCohort:
    """The features of all slides in a results folder with one column.

    Raises HistomakeError if no group of encoders has the column.
    """

    def __init__(self, layout: Layout, column: str) -> None:
        self.column, self.files = column, dict[str, Path]()
        known: set[str] = set()
        for path in existing(layout.features("*", "*"), under=layout.results):
            record = read_features(path).record
            if isinstance(record, Quarantined):
                continue
            names = columns_of(record)
            known |= set(names)
            if column in names:
                self.files[record.slide_id] = path
        if not self.files:
            raise HistomakeError(
                f"{layout.results} has no features {column}; available: {', '.join(sorted(known)) or 'none'}"
            )
        first = next(iter(self.files))
        self.identity = self._identity(first)

    def _identity(self, slide: str) -> str:
        column = read_features(self.files[slide]).column(self.column)
        assert column is not None
        return column.identity

    def slides(self) -> Iterator[tuple[str, Features, NDArray[np.floating]]]:
        """Yield id, file and vectors of each slide. Raises HistomakeError for features of other weights or settings."""
        for slide, path in sorted(self.files.items()):
            if self._identity(slide) != self.identity:
                raise HistomakeError(f"{path} has features of other weights or settings; run the workflow again")
            found = read_features(path)
            yield slide, found, found.vectors(self.column)

    @property
    def grid(self) -> Grid:
        """Grid of the patches."""
        record = read_features(next(iter(self.files.values()))).record
        assert not isinstance(record, Quarantined)
        return Grid.model_validate(record.grid)

    def of(self, slide: str) -> tuple[Features, NDArray[np.floating]]:
        """File and vectors of a slide. Raises HistomakeError if it has none."""
        if slide not in self.files:
            raise HistomakeError(f"slide {slide} has no features {self.column}")
        found = read_features(self.files[slide])
        return found, found.vectors(self.column)

    def vector(self, slide: str, patch_id: int) -> NDArray[np.float32]:
        """Vector (d,) of a patch. Raises HistomakeError if there is none."""
        found, row = self._row(slide, patch_id)
        return found.vectors(self.column)[row].astype(np.float32)

    def place(self, slide: str, patch_id: int) -> FoundPatch:
        """Place of a patch. Raises HistomakeError if it has no features."""
        features, row = self._row(slide, patch_id)
        return _found(slide, features, row, 1.0)

    def _row(self, slide: str, patch_id: int) -> tuple[Features, int]:
        if slide not in self.files:
            raise HistomakeError(f"slide {slide} has no features {self.column}")
        found = read_features(self.files[slide])
        if patch_id not in found.patch_id:
            raise HistomakeError(
                f"slide {slide} has no features of patch {patch_id}; patches that are left out have none"
            )
        (row,) = rows_of(found, np.array([patch_id], np.uint32), path=self.files[slide])
        return found, int(row)


def similar(
    cohort: FeatureCohort, slide: str, patch_id: int, *, count: int, elsewhere: bool = False
) -> list[FoundPatch]:
    """The ``count`` patches most similar to one, the most similar first; ``elsewhere``: of other slides only."""
    wanted = unit(cohort.vector(slide, patch_id)[None])[0]
    best: list[FoundPatch] = []
    for other, features, vectors in cohort.slides():
        if elsewhere and other == slide:
            continue
        for start in range(0, len(vectors), ROWS):
            cosine = unit(vectors[start : start + ROWS]) @ wanted
            if other == slide:
                cosine[features.patch_id[start : start + ROWS] == patch_id] = -np.inf
            few = min(count, len(cosine))
            for row in np.argpartition(-cosine, few - 1)[:few] if few else ():
                if np.isfinite(cosine[row]):
                    best.append(_found(other, features, start + int(row), float(cosine[row])))
        best = sorted(best, key=lambda patch: (-patch.similarity, patch.slide, patch.patch_id))[:count]
    return best


def prototypes(cohort: FeatureCohort, *, count: int, patches: int, seed: int) -> list[Prototype]:
    """Groups of similar patches by k-means on unit vectors (spherical k-means), the largest first.

    Args:
        cohort: The features.
        count: Number of groups.
        patches: Patches to return of each, those nearest to its centre.
        seed: Of the sample and of k-means.

    Raises HistomakeError if the cohort has fewer patches than groups.
    """
    sizes = {slide: len(features) for slide, features, _ in cohort.slides()}
    share = min(1.0, SAMPLED / max(1, sum(sizes.values())))
    rng, parts = np.random.default_rng([seed, 5]), []
    places: list[tuple[str, Features, int]] = []
    for slide, features, vectors in cohort.slides():
        rows = np.sort(rng.choice(len(features), round(share * len(features)), replace=False))
        parts.append(unit(vectors[rows]))
        places += [(slide, features, int(row)) for row in rows]
    if len(places) < count:
        raise HistomakeError(f"the cohort has {len(places)} patches, fewer than {count} prototypes")
    points = np.concatenate(parts)
    model = KMeans(count, n_init=3, random_state=seed).fit(points)
    cosine = np.einsum("nd,nd->n", points, unit(model.cluster_centers_)[model.labels_])
    found = []
    for label in range(count):
        members = np.flatnonzero(model.labels_ == label)
        nearest = members[np.argsort(-cosine[members], kind="stable")][:patches]
        slides = {places[member][0] for member in members}
        shown = [_found(*places[int(member)], float(cosine[member])) for member in nearest]
        found.append(Prototype(len(members) / len(points), len(slides), shown))
    return sorted(found, key=lambda prototype: -prototype.share)


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Vectors (n, d) scaled to length 1."""
    wide = vectors.astype(np.float32)
    length = np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.float32(1e-12))
    return np.asarray(wide / length, np.float32)


def _found(slide: str, features: Features, row: int, similarity: float) -> FoundPatch:
    patch_id, x, y = (int(features.table[name][row].as_py()) for name in ("patch_id", "x", "y"))
    return FoundPatch(slide, patch_id, x, y, similarity)
