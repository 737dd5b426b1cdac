"""Batches of patches with their targets, for training, validation and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from histomake.annotation.raster import rasterise
from histomake.base.errors import HistomakeError
from histomake.base.rng import AUGMENT, PLACE, counter_rng
from histomake.base.units import Level0Pixels, rescale
from histomake.config import Task
from histomake.learn.data.device_patches import View
from histomake.learn.data.reading import MaskReader, PatchReader
from histomake.learn.data.source import NEW, BatchSource, Room, SlideSource, needed
from histomake.patch import augment
from histomake.patch.augment import Parameters
from histomake.patch.grid import SlideGrid
from histomake.patch.positions import TissueLattice, move
from histomake.patch.sampler import Sampler
from histomake.patch.table import read_table
from histomake.slide.reader import SlideReader
from histomake.target.kinds import LEARNED

SHARE_SIDE = 64
"""Edge of the raster on which a moved patch's annotated shares are counted."""


@dataclass
class Batch:
    """One batch of n. images: uint8 (n, h, w, 3 · views); target: (n, …), of pixels (n, h, w); index, x, y: int64.

    ``index`` points into the PatchIndex; x and y are level-0 px, which differ from the index's for moved patches.
    """

    step: int
    images: Tensor
    target: Tensor
    index: np.ndarray
    x: np.ndarray
    y: np.ndarray
    parameters: Parameters | None
    read_errors: list[HistomakeError]


class PatchBatches(BatchSource[Batch]):
    """Batches of up to ``batch`` patches each."""

    reader: PatchReader
    masks: MaskReader | None
    batch: int

    @property
    def room_bytes(self) -> int:
        """See BatchSource."""
        shape = self._pixel_shape(self.batch)
        return needed(shape, np.uint8) + (needed(shape[:3], np.int16) if self.masks is not None else 0)

    def _pixel_shape(self, count: int) -> tuple[int, int, int, int]:
        size = self.reader.patches.size
        return count, size, size, 3 * len(self.reader.scales)

    def _read(
        self, index: np.ndarray, x: np.ndarray, y: np.ndarray, room: Room
    ) -> tuple[np.ndarray, dict[int, HistomakeError]]:
        """See PatchReader.read."""
        return self.reader.read(index, x, y, room.array(self._pixel_shape(len(index)), np.uint8))

    def _read_masks(self, masks: MaskReader, index: np.ndarray, x: np.ndarray, y: np.ndarray, room: Room) -> np.ndarray:
        """Label masks int16 (n, size, size)."""
        found = room.array(self._pixel_shape(len(index))[:3], np.int16)
        found[:] = masks.read(index, x, y)
        return found


class TrainingBatches(PatchBatches):
    """Batch number ``step`` of one training process, as a pure function of the sampler's seed and ``step``."""

    def __init__(self, reader: PatchReader, sampler: Sampler, task: Task, *, worker: int) -> None:
        self.reader, self.sampler, self.task, self.worker = reader, sampler, task, worker
        self.patches, self.batch = reader.patches, task.train.batch
        self.masks = MaskReader(self.patches, task.target) if LEARNED[task.kind].per_pixel else None
        self.places = RandomPlaces(reader, task) if task.train.positions == "random" else None

    def prepare(self, number: int, room: Room = NEW) -> Batch:
        """See BatchSource."""
        index = self.sampler.draw(number, self.batch, worker=self.worker)
        x, y = self._places(number, index)
        pixels, errors = self._read(index, x, y, room)
        failures = list(errors.values())
        for slot in errors:
            failures += self._replace(number, slot, index, x, y, pixels)
        rng = counter_rng(self.sampler.seed, worker=self.worker, step=number, stream=AUGMENT)
        return Batch(
            step=number,
            images=torch.from_numpy(pixels),
            target=torch.from_numpy(self._targets(index, x, y, room)),
            index=index,
            x=x,
            y=y,
            parameters=augment.draw_parameters(self.task.augment, len(index), rng),
            read_errors=failures,
        )

    def _places(self, step: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.places is None:
            return self.patches.x[index].astype(np.int64), self.patches.y[index].astype(np.int64)
        return self.places.draw(index, counter_rng(self.sampler.seed, worker=self.worker, step=step, stream=PLACE))

    def _targets(self, index: np.ndarray, x: np.ndarray, y: np.ndarray, room: Room) -> np.ndarray:
        if self.masks is not None:
            return self._read_masks(self.masks, index, x, y, room)
        if self.places is not None and self.task.target.source == "annotation" and LEARNED[self.task.kind].numbers:
            return self.places.targets(index, x, y)
        return self.patches.target[index]

    def _replace(
        self, step: int, slot: int, index: np.ndarray, x: np.ndarray, y: np.ndarray, pixels: np.ndarray
    ) -> list[HistomakeError]:
        """Draw another patch for ``slot`` until one can be read; returns the further failures.

        It stops once more patches have failed than the run tolerates, because training then stops at the count.
        """
        failures: list[HistomakeError] = []
        while len(failures) <= self.task.train.max_read_errors:
            chosen = self.sampler.redraw(step, worker=self.worker, slot=slot, attempt=len(failures))
            index[slot], x[slot], y[slot] = chosen, self.patches.x[chosen], self.patches.y[chosen]
            one = slice(slot, slot + 1)
            other, errors = self.reader.read(index[one], x[one], y[one])
            if not errors:
                pixels[slot] = other[0]
                break
            failures += errors.values()
        return failures


class RandomPlaces:
    """Moves drawn patches off the grid and looks up the annotation there."""

    def __init__(self, reader: PatchReader, task: Task) -> None:
        self.reader, self.task, self.patches = reader, task, reader.patches
        self._lattices: dict[int, tuple[TissueLattice, float]] = {}

    def draw(self, index: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Level-0 places int64 (n,), (n,) of patches ``index``; a patch whose class would change stays on the grid."""
        patches = self.patches
        x, y = patches.x[index].astype(np.int64), patches.y[index].astype(np.int64)
        for slot, patch in enumerate(index):
            lattice, min_tissue = self._lattice(int(patches.slide[patch]))
            place = Level0Pixels(int(x[slot])), Level0Pixels(int(y[slot]))
            x[slot], y[slot] = move(lattice, *place, min_tissue=min_tissue, rng=rng)
        learned = LEARNED[self.task.kind]
        if self.task.target.source == "annotation" and not learned.numbers and not learned.per_pixel:
            same = (self.targets(index, x, y) == patches.target[index]).reshape(len(index), -1).all(axis=1)
            x[~same], y[~same] = patches.x[index[~same]], patches.y[index[~same]]
        return x, y

    def targets(self, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Targets of patches at ``x``, ``y``, as `patch_targets` gives them on the grid."""
        return LEARNED[self.task.kind].of_areas(self.shares(index, x, y), self.task.target, True)

    def shares(self, index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Annotated share per class, float32 (n, classes), of patches at ``x``, ``y``."""
        result = np.zeros((len(index), len(self.task.target.classes)), np.float32)
        for slot, patch in enumerate(index):
            slide = int(self.patches.slide[patch])
            annotation = self.reader.pool.annotation(slide)
            span = rescale(self.patches.size, self.patches.mpp, self.reader.pool.reader(slide).mpp)
            place = Level0Pixels(int(x[slot])), Level0Pixels(int(y[slot]))
            raster = rasterise(annotation, *place, SHARE_SIDE, span / SHARE_SIDE)
            counts = np.bincount(raster.ravel(), minlength=len(annotation.class_names) + 1) / raster.size
            result[slot] = [counts[annotation.class_names.index(name) + 1] for name in self.task.target.classes]
        return result

    def _lattice(self, slide: int) -> tuple[TissueLattice, float]:
        if slide not in self._lattices:
            table, record = read_table(self.patches.entries[slide].table)
            self._lattices[slide] = TissueLattice(table), SlideGrid.of_table(record).grid.min_tissue
        return self._lattices[slide]


class FixedBatches(PatchBatches, SlideSource[Batch]):
    """The patches of an index in order, in batches: for validation and prediction.

    ``groups``: how many patches each of several groups has, in order; no batch holds patches of two. ``order``:
    positions in the index, if they are to be read in another order.
    """

    def __init__(
        self,
        reader: PatchReader,
        *,
        batch: int,
        masks: MaskReader | None = None,
        groups: Sequence[int] | None = None,
        order: np.ndarray | None = None,
    ) -> None:
        self.reader, self.masks, self.batch = reader, masks, batch
        self.order = np.arange(len(reader.patches)) if order is None else order
        ends = np.cumsum([len(reader.patches)] if groups is None else groups).tolist()
        starts = zip([0, *ends[:-1]], ends, strict=True)
        self.spans = [(low, min(low + batch, end)) for start, end in starts for low in range(start, end, batch)]

    def __len__(self) -> int:
        return len(self.spans)

    def prepare(self, number: int, room: Room = NEW) -> Batch:
        """See BatchSource."""
        index, x, y = self._places(number)
        pixels, errors = self._read(index, x, y, room)
        target = self.reader.patches.target[index]
        if self.masks is not None:
            target = self._read_masks(self.masks, index, x, y, room)
        return self._batch(number, torch.from_numpy(pixels), target, list(errors.values()))

    def _places(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions in the index of the patches of a batch, and their corners."""
        patches, index = self.reader.patches, self.order[slice(*self.spans[number])]
        return index, patches.x[index].astype(np.int64), patches.y[index].astype(np.int64)

    def _batch(self, number: int, images: Tensor, target: np.ndarray, errors: list[HistomakeError]) -> Batch:
        index, x, y = self._places(number)
        return Batch(
            step=number,
            images=images,
            target=torch.from_numpy(target),
            index=index,
            x=x,
            y=y,
            parameters=None,
            read_errors=errors,
        )

    @property
    def on_cpu_only(self) -> str | None:
        """See SlideSource."""
        if self.masks is not None or len(self.reader.patches.entries) != 1:
            return "patches come with masks, or from several slides"
        return None if self.reader.stain is None else "stains are normalised"

    def slide(self) -> SlideReader:
        """See SlideSource."""
        return self.reader.pool.reader(0)

    def views(self, number: int) -> list[View]:
        """See SlideSource."""
        _, x, y = self._places(number)
        return self.reader.views(0, x, y)

    def filled(self, number: int, images: Tensor) -> Batch:
        """See SlideSource."""
        index, _, _ = self._places(number)
        return self._batch(number, images, self.reader.patches.target[index], [])
