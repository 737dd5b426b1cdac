"""Fields of view inside tissue, read at any size directly from the stores: all sizes show the same field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from histomake.base.errors import HistomakeError
from histomake.base.rng import AUGMENT, PLACE, counter_rng
from histomake.base.units import Level0Pixels, Mpp, PatchPixels
from histomake.config import Generator, Model
from histomake.generate.growing.schedule import Schedule
from histomake.generate.patches import index_slides
from histomake.learn.data.patch_index import PatchIndex, SlideEntry
from histomake.learn.data.reading import PatchReader
from histomake.learn.data.source import NEW, BatchSource, Room, needed
from histomake.patch.positions import TissueLattice, move
from histomake.patch.sampler import Sampler, balance_weights
from histomake.patch.table import read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class FieldSet:
    """Places of fields on several slides. names: values of the label, sorted, or none; label: int64, by slide."""

    patches: PatchIndex
    field_um: float
    names: tuple[str, ...]
    label: NDArray[np.int64]

    def labels(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Label int64 (n,) of each field, a position in ``names``; 0 without labels."""
        return self.label[self.patches.slide[index]]

    def reader(self, size: int) -> PatchReader:
        """A reader of the fields as images of ``size`` px, from the level of the store that fits."""
        patches = replace(self.patches, size=PatchPixels(size), mpp=Mpp(self.field_um / size))
        return PatchReader(patches, Model())


def index_fields(
    entries: Sequence[SlideEntry], generator: Generator, *, what: str, names: Sequence[str] | None = None
) -> FieldSet:
    """The fields of slides.

    Args:
        entries: The slides, with tables of `histomake.patch.field_grid`.
        generator: The settings.
        what: What the slides are, for messages.
        names: Known values of the label; by default those of the slides.

    Raises HistomakeError if no slide has a usable field, or a slide has an unknown label.
    """
    patches = index_slides(entries, what)
    if generator.label is None:
        return FieldSet(patches, generator.field_um, (), np.zeros(len(entries), np.int64))
    values = [entry.labels[generator.label] for entry in entries]
    known = tuple(sorted(set(values))) if names is None else tuple(names)
    unknown = sorted(f"{e.slide_id} ({v})" for e, v in zip(entries, values, strict=True) if v not in known)
    if unknown:
        raise HistomakeError(f"{what}: slides whose {generator.label} was not learned: {', '.join(unknown)}")
    return FieldSet(patches, generator.field_um, known, np.array([known.index(v) for v in values], np.int64))


@dataclass
class FieldBatch:
    """n fields, uint8 (n, size, size, 3); labels, index: int64 (n,), labels and positions in the index."""

    images: Tensor
    labels: Tensor
    index: NDArray[np.int64]
    read_errors: list[HistomakeError]


class FieldBatches(BatchSource[FieldBatch]):
    """Batches by number, each of the size of its step, with equal chances for all slides.

    Fields are drawn uniformly over the tissue, and flipped and turned by quarters at random.
    """

    def __init__(self, fields: FieldSet, schedule: Schedule, *, min_tissue: float, seed: int) -> None:
        self.fields, self.schedule, self.min_tissue, self.seed = fields, schedule, min_tissue, seed
        self._readers: dict[int, PatchReader] = {}
        self._lattices: dict[int, TissueLattice] = {}
        slide = fields.patches.slide
        self.sampler = Sampler.from_weights(balance_weights(slide=slide, group=slide, balance="slide"), seed=seed)

    @property
    def room_bytes(self) -> int:
        """See BatchSource."""
        return max(needed((p.batch, p.size, p.size, 3), np.uint8) for p in self.schedule.phases)

    def prepare(self, number: int, room: Room = NEW) -> FieldBatch:
        """See BatchSource."""
        phase = self.schedule.at(number)
        index = self.sampler.draw(number, phase.batch)
        x, y = self._places(index, number)
        out = room.array((phase.batch, phase.size, phase.size, 3), np.uint8)
        pixels, errors = self._reader(phase.size).read(index, x, y, out)
        rng = counter_rng(self.seed, step=number, stream=AUGMENT)
        turns, flips = rng.integers(0, 4, len(index)), rng.random(len(index)) < 0.5
        for slot in range(len(index)):
            turned = np.rot90(pixels[slot], turns[slot])
            pixels[slot] = turned[:, ::-1].copy() if flips[slot] else turned.copy()
        labels = torch.from_numpy(self.fields.labels(index))
        return FieldBatch(torch.from_numpy(pixels), labels, index, list(errors.values()))

    def _reader(self, size: int) -> PatchReader:
        if size not in self._readers:
            # Only the size of a phase is read for a long time; open stores of the last one are let go.
            self._readers = {size: self.fields.reader(size)}
        return self._readers[size]

    def _places(self, index: NDArray[np.int64], number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Level-0 px of fields, each shifted from its cell at random."""
        patches = self.fields.patches
        x, y = patches.x[index].astype(np.int64), patches.y[index].astype(np.int64)
        rng = counter_rng(self.seed, step=number, stream=PLACE)
        for slot, slide in enumerate(patches.slide[index].tolist()):
            place = Level0Pixels(int(x[slot])), Level0Pixels(int(y[slot]))
            x[slot], y[slot] = move(self._lattice(slide), *place, min_tissue=self.min_tissue, rng=rng)
        return x, y

    def _lattice(self, slide: int) -> TissueLattice:
        if slide not in self._lattices:
            self._lattices[slide] = TissueLattice(read_table(self.fields.patches.entries[slide].table)[0])
        return self._lattices[slide]
