"""Search in features for the viewer: the patches of the cohort that are most similar to the one at a place."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypedDict

import cv2
import numpy as np

from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined
from histomake.base.units import Level0Pixels
from histomake.features.store import columns_of, read_features
from histomake.pictures.canvas import as_jpeg
from histomake.slide.reader import open_slide

if TYPE_CHECKING:
    from histomake.features.search import FeatureCohort, FoundPatch

FOUND = 12
"""Patches that are shown."""

THUMB_PX = 96
THUMB_QUALITY = 85


def encoders(layout: Layout, slide: str) -> list[str]:
    """Columns of the features of a slide."""
    found: list[str] = []
    for path in existing(layout.features("*", slide), under=layout.results):
        record = read_features(path).record
        if not isinstance(record, Quarantined):
            found += columns_of(record)
    return sorted(found)


class ShownPatch(TypedDict):
    """A patch: place and edge in level-0 pixels, and how similar it is to the one that was asked for."""

    slide: str
    patch_id: int
    x: int
    y: int
    span: float
    similarity: float


class SimilarPatches(TypedDict):
    """The patch at a place, and those most similar to it, most similar first."""

    asked: ShownPatch
    found: list[ShownPatch]


class Neighbours:
    """Searches in the features of one results folder. What files there are is looked up again when folders change."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._cohorts: dict[str, tuple[tuple[tuple[str, int], ...], FeatureCohort]] = {}
        self._lock = threading.Lock()

    def similar(self, slide: str, column: str, x: float, y: float) -> SimilarPatches:
        """The patch at a place in level-0 pixels and those most similar to it. Raises KeyError if there is none."""
        from histomake.features.search import similar  # takes seconds; most sessions never search

        cohort = self._cohort(slide, column)
        asked, span = self._patch_at(cohort, slide, x, y)
        found = similar(cohort, slide, asked, count=FOUND)
        spans = {slide: span} | {p.slide: self._span(cohort, p.slide) for p in found if p.slide != slide}
        place = cohort.place(slide, asked)
        return {"asked": _shown(place, span), "found": [_shown(patch, spans[patch.slide]) for patch in found]}

    def thumbnail(self, slide: str, column: str, patch: int) -> bytes:
        """Picture of a patch as JPEG. Raises KeyError for an unknown slide or patch."""
        cohort = self._cohort(slide, column)
        features, _ = cohort.of(slide)
        if patch not in features.patch_id:
            raise KeyError(patch)
        place, grid = cohort.place(slide, patch), cohort.grid
        with open_slide(self.layout.manifest(slide)) as reader:
            pixels = reader.read(Level0Pixels(place.x), Level0Pixels(place.y), grid.size, grid.mpp)
        small = cv2.resize(pixels, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA)
        return as_jpeg(np.asarray(small, np.uint8), quality=THUMB_QUALITY)

    def _cohort(self, slide: str, column: str) -> FeatureCohort:
        """The features of a column, if the slide has them."""
        from histomake.features.search import FeatureCohort

        folders = sorted((self.layout.results / "features").glob("*"))
        state = tuple((folder.name, folder.stat().st_mtime_ns) for folder in folders)
        with self._lock:
            if column not in self._cohorts or self._cohorts[column][0] != state:
                if column not in encoders(self.layout, slide):
                    raise KeyError(column)
                self._cohorts[column] = (state, FeatureCohort(self.layout, column))
            cohort = self._cohorts[column][1]
        if slide not in cohort.files:
            raise KeyError(slide)
        return cohort

    def _span(self, cohort: FeatureCohort, slide: str) -> float:
        with open_slide(self.layout.manifest(slide)) as reader:
            return float(cohort.grid.size * cohort.grid.mpp / reader.mpp)

    def _patch_at(self, cohort: FeatureCohort, slide: str, x: float, y: float) -> tuple[int, float]:
        """Patch whose centre is nearest of those that contain the place, and its edge in level-0 pixels."""
        features, _ = cohort.of(slide)
        span = self._span(cohort, slide)
        away = np.maximum(
            np.abs(features.table["x"].to_numpy() + span / 2 - x), np.abs(features.table["y"].to_numpy() + span / 2 - y)
        )
        if not len(away) or away.min() > span / 2:
            raise KeyError((x, y))
        return int(features.patch_id[int(away.argmin())]), span


def _shown(patch: FoundPatch, span: float) -> ShownPatch:
    return {
        "slide": patch.slide,
        "patch_id": patch.patch_id,
        "x": patch.x,
        "y": patch.y,
        "span": span,
        "similarity": round(patch.similarity, 4),
    }
