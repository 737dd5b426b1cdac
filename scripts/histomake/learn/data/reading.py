"""Readers of patches and label masks in a loader process, with caches of open slides and annotations."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import shapely

from histomake.annotation.model import Annotation
from histomake.annotation.raster import rasterise
from histomake.base.errors import HistomakeError, SlideError
from histomake.base.kinds import BACKGROUND, Kind
from histomake.base.units import Level0Pixels, Mpp, rescale
from histomake.config import Model, Target
from histomake.learn.data.device_patches import View
from histomake.learn.data.patch_index import PatchIndex, SlideEntry
from histomake.learn.data.stains import learn_slide
from histomake.patch.stain import StainNormaliser
from histomake.slide.reader import SlideReader, open_slide
from histomake.slide.shared_tiles import SharedTiles
from histomake.target.outputs import outputs_of
from histomake.target.targets import UNLABELLED

log = logging.getLogger(__name__)

MOST_READERS = 16_384
"""Maximum number of open readers per process. A reader holds a store's metadata, about 20 kB."""

ANNOTATION_BYTES = 512 << 20
"""Approximate limit, in bytes, of the annotations cached per process."""


class _Recent[T]:
    """Least-recently-used cache of objects with a total size of at most ``room``."""

    def __init__(self, room: int) -> None:
        self.room, self.taken = room, 0
        self._kept: OrderedDict[int, tuple[T, int]] = OrderedDict()

    def get(self, key: int, make: Callable[[], T], size: Callable[[T], int] = lambda _: 1) -> T:
        """The cached object of ``key``, or a new one from ``make``; ``size`` computes its size."""
        if key not in self._kept:
            made = make()
            self._kept[key] = made, size(made)
            self.taken += self._kept[key][1]
            while self.taken > self.room and len(self._kept) > 1:
                self.taken -= self._kept.popitem(last=False)[1][1]
        self._kept.move_to_end(key)
        return self._kept[key][0]


class SlidePool:
    """Open slides and annotations of one process. In a shuffled batch every patch can be from another slide.

    Open slides and annotations are not pickled.
    """

    def __init__(self, entries: Sequence[SlideEntry]) -> None:
        self.entries = tuple(entries)
        self._readers: _Recent[SlideReader] = _Recent(MOST_READERS)
        self._annotations: _Recent[Annotation] = _Recent(ANNOTATION_BYTES)

    def __reduce__(self) -> tuple[Any, ...]:
        return SlidePool, (self.entries,)

    def reader(self, slide: int) -> SlideReader:
        """The reader of the ``slide``-th entry."""
        return self._readers.get(slide, lambda: open_slide(self.entries[slide].manifest))

    def annotation(self, slide: int) -> Annotation:
        """The annotation of the ``slide``-th entry."""
        return self._annotations.get(slide, lambda: self._load_annotation(slide), _annotation_bytes)

    def _load_annotation(self, slide: int) -> Annotation:
        entry = self.entries[slide]
        if entry.annotation is None:
            raise ValueError(f"slide {entry.slide_id} has no annotation")
        return Annotation.load(entry.annotation)


def _annotation_bytes(annotation: Annotation) -> int:
    """Approximate size: two coordinates of eight bytes per vertex, and the objects and index of each region."""
    vertices = sum(shapely.get_num_coordinates(geometry) for _, geometry in annotation.regions)
    return int(20_000 + 1_000 * len(annotation.regions) + 16 * vertices)


class PatchReader:
    """Reader of patches. It reads by slide and position, so that neighbouring patches share decoded tiles."""

    def __init__(self, patches: PatchIndex, model: Model, *, stain: StainNormaliser | None = None) -> None:
        self.patches = patches
        self.scales = (1.0, *model.context)
        self.stain = stain
        self.pool = SlidePool(patches.entries)

    def read(
        self, index: np.ndarray, x: np.ndarray, y: np.ndarray, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, dict[int, HistomakeError]]:
        """Pixels uint8 (n, size, size, 3 · views) of the slides of patches ``index`` at ``x``, ``y`` (level-0 px).

        They are written into the first n entries of ``out``, if given. Returns also errors by position in ``index``,
        SlideError where the slide is damaged; the pixels of these patches are undefined.
        """
        patches = self.patches
        shape = (len(index), patches.size, patches.size, 3 * len(self.scales))
        pixels = np.empty(shape, np.uint8) if out is None else out[: len(index)]
        errors: dict[int, HistomakeError] = {}
        for slide in np.unique(patches.slide[index]):
            slots = np.flatnonzero(patches.slide[index] == slide)
            slots = slots[np.lexsort((x[slots], y[slots]))]
            shared: SharedTiles | None = None
            for slot in slots:
                try:
                    shared = self._share(int(slide), x[slots], y[slots]) if shared is None else shared
                    pixels[slot] = self._read_views(int(slide), int(x[slot]), int(y[slot]), shared)
                except SlideError as error:
                    errors[int(slot)] = error.at(f"patch at x={x[slot]} y={y[slot]}")
                except (OSError, ValueError) as error:
                    place = f"slide {patches.entries[slide].slide_id} patch at x={x[slot]} y={y[slot]}"
                    errors[int(slot)] = HistomakeError(f"{place}: {error}")
        return pixels, errors

    def _share(self, slide: int, x: np.ndarray, y: np.ndarray) -> SharedTiles:
        """The tiles that patches of a slide have in common, over all views."""
        reader, shared = self.pool.reader(slide), SharedTiles()
        for view in self.views(slide, x, y):
            reader.share(list(zip(view.x.tolist(), view.y.tolist(), strict=True)), view.size, view.mpp, shared)
        return shared

    def views(self, slide: int, x: np.ndarray, y: np.ndarray) -> list[View]:
        """Where the views of patches of a slide at ``x``, ``y`` (level-0 px) lie, one per scale."""
        found, reader = [], self.pool.reader(slide)
        for scale in self.scales:
            corners = [self._corner(reader, left, top, scale) for left, top in zip(x.tolist(), y.tolist(), strict=True)]
            left, top = np.array(corners, np.int64).reshape(-1, 2).T
            found.append(View(left, top, self.patches.size, Mpp(self.patches.mpp * scale)))
        return found

    def _corner(self, reader: SlideReader, x: int, y: int, scale: float) -> tuple[Level0Pixels, Level0Pixels]:
        """The corner of the view that is ``scale`` times as wide as the patch at ``x``, ``y``, with the same centre."""
        margin = rescale((scale - 1) * self.patches.size, self.patches.mpp, reader.mpp) / 2
        return Level0Pixels(round(x - margin)), Level0Pixels(round(y - margin))

    def _read_views(self, slide: int, x: int, y: int, shared: SharedTiles) -> np.ndarray:
        """All views of one place, concatenated as channels."""
        reader, size, mpp = self.pool.reader(slide), self.patches.size, self.patches.mpp
        views = []
        for scale in self.scales:
            view = reader.read(*self._corner(reader, x, y, scale), size, Mpp(mpp * scale), shared=shared)
            if self.stain is not None:
                learn_slide(self.stain, self.patches.entries[slide])
                view = self.stain.apply(view, self.patches.entries[slide].slide_id)
            views.append(view)
        return views[0] if len(views) == 1 else np.concatenate(views, axis=2)


class MaskReader:
    """Reader of label masks of patches, from annotated regions or label images."""

    def __init__(self, patches: PatchIndex, target: Target) -> None:
        self.patches, self.target = patches, target
        self.pool = SlidePool(patches.entries)

    def read(self, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """int64 (n, size, size): positions in the task's outputs, UNLABELLED where unknown."""
        return np.stack(
            [
                self._read(int(slide), Level0Pixels(left), Level0Pixels(top))
                for slide, left, top in zip(self.patches.slide[index], x.tolist(), y.tolist(), strict=True)
            ]
        )

    def _read(self, slide: int, x: Level0Pixels, y: Level0Pixels) -> np.ndarray:
        annotation = self.pool.annotation(slide)
        scale = rescale(1, self.patches.mpp, self.pool.reader(slide).mpp)
        return class_lookup(annotation, self.target)[rasterise(annotation, x, y, self.patches.size, scale)]


def class_lookup(annotation: Annotation, target: Target) -> np.ndarray:
    """int64 table from the numbers of ``rasterise`` to positions in the task's outputs."""
    learned = outputs_of(Kind.SEGMENTATION, target)
    other = learned.index(BACKGROUND) if BACKGROUND in learned else UNLABELLED
    numbers = [learned.index(name) if name in target.classes else other for name in annotation.class_names]
    return np.array([other, *numbers], np.int64)
