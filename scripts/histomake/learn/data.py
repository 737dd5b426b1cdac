"""Owns the path from patch tables to batches of pixels: which patches are usable, and their loading in parallel."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from histomake.config import Task
from histomake.errors import HistomakeError, SlideError
from histomake.layout import Layout
from histomake.learn.target import patch_targets
from histomake.patch import augment
from histomake.patch.augment import Parameters
from histomake.patch.sampler import AUGMENT, Sampler, counter_rng
from histomake.patch.table import read_table
from histomake.slide.reader import SlideReader, open_slide

log = logging.getLogger(__name__)

MAX_OPEN_SLIDES = 64


@dataclass(frozen=True)
class SlideEntry:
    """One slide of a task: where its pixels, its patches and its labels are."""

    slide_id: str
    patient_id: str
    manifest: Path
    table: Path
    annotation: Path | None = None
    labels: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, layout: Layout, grid: str, slide_id: str, patient_id: str, labels: dict[str, str]) -> SlideEntry:
        """The entry of a slide whose files lie where the workflow puts them."""
        return cls(
            slide_id=slide_id,
            patient_id=patient_id,
            manifest=layout.manifest(slide_id),
            table=layout.table(grid, slide_id),
            annotation=layout.annotation(slide_id),
            labels=dict(labels),
        )


@dataclass(frozen=True)
class PatchIndex:
    """The usable patches of several slides, as parallel arrays of length n.

    slide: int32, position in ``entries``; patch_id: uint32; x, y: int32, level-0 px; target: see patch_targets;
    size: px at ``mpp`` µm per px.
    """

    entries: tuple[SlideEntry, ...]
    slide: np.ndarray
    patch_id: np.ndarray
    x: np.ndarray
    y: np.ndarray
    target: np.ndarray
    size: int
    mpp: float

    def __len__(self) -> int:
        return len(self.slide)

    def take(self, chosen: np.ndarray) -> PatchIndex:
        """The patches at ``chosen`` (indices or a mask)."""
        arrays = (self.slide, self.patch_id, self.x, self.y, self.target)
        return PatchIndex(self.entries, *(array[chosen] for array in arrays), size=self.size, mpp=self.mpp)


def index_patches(entries: Sequence[SlideEntry], task: Task) -> PatchIndex:
    """Gather every patch that no exclusion applies to; slides in quarantine contribute none.

    Raises HistomakeError when no patch is left or when tables of different grids are mixed.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    grids: set[tuple[int, float]] = set()
    for position, entry in enumerate(entries):
        table, meta = usable_patches(entry)
        if not table.num_rows:
            log.warning("slide %s has no usable patch", entry.slide_id)
            continue
        grids.add((int(meta["grid"]["size"]), float(meta["grid"]["mpp"])))
        target = patch_targets(table, task, labels=entry.labels, slide_id=entry.slide_id)
        columns = (table["patch_id"].to_numpy(), table["x"].to_numpy(), table["y"].to_numpy(), target)
        parts.append((np.full(table.num_rows, position, np.int32), *columns))
    if not parts:
        raise HistomakeError(f"none of {len(entries)} slides has a usable patch; see the catalog's excluded column")
    if len(grids) > 1:
        raise HistomakeError(f"patch tables of different grids were mixed: {sorted(grids)}")
    (size, mpp) = grids.pop()
    return PatchIndex(tuple(entries), *(np.concatenate(column) for column in zip(*parts, strict=True)), size, mpp)


def usable_patches(entry: SlideEntry) -> tuple[pa.Table, dict[str, Any]]:
    """The slide's patches that no exclusion applies to, none for a slide in quarantine, and the table's metadata."""
    table, meta = read_table(entry.table)
    return table.filter(pc.equal(table["excluded"].cast("string"), "")), meta


class SlidePool:
    """Open slides of one process, the least recently used closed first; nothing is open after pickling."""

    def __init__(self, entries: Sequence[SlideEntry]) -> None:
        self.entries = tuple(entries)
        self._open: OrderedDict[int, SlideReader] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"entries": self.entries, "_open": OrderedDict()}

    def reader(self, slide: int) -> SlideReader:
        """The reader of the ``slide``-th entry."""
        if slide in self._open:
            self._open.move_to_end(slide)
            return self._open[slide]
        if len(self._open) >= MAX_OPEN_SLIDES:
            self._open.popitem(last=False)[1].close()
        self._open[slide] = open_slide(self.entries[slide].manifest)
        return self._open[slide]


@dataclass
class Batch:
    """One batch. images: uint8 (n, h, w, 3); target: (n, …); index: int64 (n,) into the PatchIndex."""

    step: int
    images: Tensor
    target: Tensor
    index: Tensor
    parameters: Parameters | None
    read_errors: list[str]

    def pin_memory(self) -> Batch:
        """Called by DataLoader: page-locked memory copies to the GPU while it computes."""
        self.images, self.target = self.images.pin_memory(), self.target.pin_memory()
        return self


class PatchReader:
    """Reads patches of a PatchIndex, grouped by slide and walked in reading order for locality."""

    def __init__(self, patches: PatchIndex) -> None:
        self.patches = patches
        self.pool = SlidePool(patches.entries)

    def read(self, index: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """Pixels uint8 (n, size, size, 3) of patches ``index``, and the failures by position in ``index``."""
        patches, size = self.patches, self.patches.size
        pixels = np.empty((len(index), size, size, 3), np.uint8)
        errors: dict[int, str] = {}
        for slide in np.unique(patches.slide[index]):
            slots = np.flatnonzero(patches.slide[index] == slide)
            slots = slots[np.lexsort((patches.x[index[slots]], patches.y[index[slots]]))]
            try:
                pixels[slots] = self._read_slide(int(slide), index[slots])
            except (SlideError, OSError, ValueError) as error:
                log.warning("slide %s: %s; its patches are read one by one", patches.entries[slide].slide_id, error)
                self._read_singly(int(slide), index, slots, pixels, errors)
        return pixels, errors

    def _read_slide(self, slide: int, index: np.ndarray) -> np.ndarray:
        positions = list(zip(self.patches.x[index].tolist(), self.patches.y[index].tolist(), strict=True))
        return self.pool.reader(slide).read_many(positions, self.patches.size, self.patches.mpp)

    def _read_singly(
        self, slide: int, index: np.ndarray, slots: np.ndarray, pixels: np.ndarray, errors: dict[int, str]
    ) -> None:
        for slot in slots:
            try:
                pixels[slot] = self._read_slide(slide, index[slot : slot + 1])[0]
            except (SlideError, OSError, ValueError) as error:
                errors[int(slot)] = f"{describe(self.patches, index[slot])}: {error}"


def describe(patches: PatchIndex, index: int) -> str:
    """Name a patch for a person."""
    entry = patches.entries[patches.slide[index]]
    return f"slide {entry.slide_id} patch at x={patches.x[index]} y={patches.y[index]}"


class TrainingBatches(Dataset):
    """Batch number ``step`` of one training process, as a pure function of the sampler's seed and ``step``."""

    def __init__(self, reader: PatchReader, sampler: Sampler, task: Task, *, worker: int, max_read_errors: int) -> None:
        self.reader, self.sampler, self.task = reader, sampler, task
        self.worker, self.max_read_errors = worker, max_read_errors

    def __getitem__(self, step: int) -> Batch:
        index = self.sampler.draw(step, self.task.train.batch, worker=self.worker)
        pixels, errors = self.reader.read(index)
        messages = list(errors.values())
        for slot in errors:
            messages += self._replace(step, slot, index, pixels, budget=self.max_read_errors - len(messages))
        rng = counter_rng(self.sampler.seed, worker=self.worker, step=step, stream=AUGMENT)
        return Batch(
            step=step,
            images=torch.from_numpy(pixels),
            target=torch.from_numpy(self.reader.patches.target[index]),
            index=torch.from_numpy(index),
            parameters=augment.draw_parameters(self.task.augment, len(index), rng),
            read_errors=messages,
        )

    def _replace(self, step: int, slot: int, index: np.ndarray, pixels: np.ndarray, *, budget: int) -> list[str]:
        """Draw another patch for ``slot`` until one can be read; returns the further failures met on the way."""
        messages: list[str] = []
        while len(messages) <= budget:
            index[slot] = self.sampler.redraw(step, worker=self.worker, slot=slot, attempt=len(messages))
            other, errors = self.reader.read(index[slot : slot + 1])
            if not errors:
                pixels[slot] = other[0]
                break
            messages += errors.values()
        return messages


class FixedBatches(Dataset):
    """The patches of an index in order, in batches: for validation and prediction."""

    def __init__(self, reader: PatchReader, *, batch: int) -> None:
        self.reader, self.batch = reader, batch

    def __len__(self) -> int:
        return -(-len(self.reader.patches) // self.batch)

    def __getitem__(self, step: int) -> Batch:
        index = np.arange(step * self.batch, min((step + 1) * self.batch, len(self.reader.patches)))
        pixels, errors = self.reader.read(index)
        return Batch(
            step=step,
            images=torch.from_numpy(pixels),
            target=torch.from_numpy(self.reader.patches.target[index]),
            index=torch.from_numpy(index),
            parameters=None,
            read_errors=list(errors.values()),
        )


def load_batches(dataset: Dataset, steps: range, *, workers: int) -> Iterator[Batch]:
    """Yield batches ``steps`` of ``dataset`` in order, prepared by ``workers`` processes ahead of their use."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)
