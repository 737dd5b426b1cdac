"""Index of the usable patches of many slides, from their patch tables."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from histomake.base.errors import HistomakeError
from histomake.base.kinds import BACKGROUND, Kind
from histomake.base.layout import Layout
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.record import Quarantined
from histomake.base.units import Mpp, PatchPixels
from histomake.config import Target
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table
from histomake.target.kinds import LEARNED, patch_targets
from histomake.target.targets import UNLABELLED

log = logging.getLogger(__name__)


class ReaderLabelsContent(TypedDict):
    """A `ReaderLabels` as JSON."""

    table: str
    annotation: str


class EntryContent(TypedDict):
    """A `SlideEntry` as JSON."""

    slide_id: str
    patient_id: str
    manifest: str
    table: str
    annotation: str | None
    labels: dict[str, str]
    readings: dict[str, ReaderLabelsContent]


@dataclass(frozen=True)
class ReaderLabels:
    """What one of several readers of a slide annotated: patch table with the reader's areas, and record."""

    table: Path
    annotation: Path


@dataclass(frozen=True)
class SlideEntry:
    """One slide of a task: the paths of its store and patch table, and its labels.

    readings: what each reader of the slide annotated, by id, if each is learned from.
    reader: whose areas and annotation ``table`` and ``annotation`` have; None: those of the slide.
    """

    slide_id: str
    patient_id: str
    manifest: Path
    table: Path
    annotation: Path | None = None
    labels: dict[str, str] = field(default_factory=dict)
    readings: dict[str, ReaderLabels] = field(default_factory=dict)
    reader: str | None = None

    @classmethod
    def at(
        cls,
        layout: Layout,
        grid: str,
        slide_id: str,
        patient_id: str,
        labels: dict[str, str],
        readers: Iterable[str] = (),
    ) -> SlideEntry:
        """The entry of a slide in a results folder; ``readers``: those whose annotations are learned from."""
        read = {reader: layout.reading(slide_id, reader) for reader in readers}
        return cls(
            slide_id=slide_id,
            patient_id=patient_id,
            manifest=layout.manifest(slide_id),
            table=layout.table(grid, slide_id),
            annotation=layout.annotation(slide_id),
            labels=dict(labels),
            readings={reader: ReaderLabels(files.table(grid), files.record) for reader, files in read.items()},
        )

    def by_reader(self) -> list[SlideEntry]:
        """The slide as each of its readers annotated it; only itself where the readers are not learned from."""
        return [
            replace(self, table=found.table, annotation=found.annotation, reader=reader, readings={})
            for reader, found in self.readings.items()
        ] or [self]

    def dump(self) -> EntryContent:
        """The entry as JSON."""
        return EntryContent(
            slide_id=self.slide_id,
            patient_id=self.patient_id,
            manifest=str(self.manifest),
            table=str(self.table),
            annotation=None if self.annotation is None else str(self.annotation),
            labels=self.labels,
            readings={
                reader: ReaderLabelsContent(table=str(found.table), annotation=str(found.annotation))
                for reader, found in self.readings.items()
            },
        )

    @classmethod
    def parse(cls, content: EntryContent) -> SlideEntry:
        """The inverse of `dump`."""
        annotation = content["annotation"]
        return cls(
            slide_id=content["slide_id"],
            patient_id=content["patient_id"],
            manifest=Path(content["manifest"]),
            table=Path(content["table"]),
            annotation=None if annotation is None else Path(annotation),
            labels=content["labels"],
            readings={
                reader: ReaderLabels(Path(found["table"]), Path(found["annotation"]))
                for reader, found in content["readings"].items()
            },
        )

    def is_annotated(self) -> bool:
        """Whether the slide is annotated, even if the annotation contains no region."""
        if self.annotation is None or not self.annotation.exists():
            return False
        record = AnnotationRecord.read(self.annotation)
        return isinstance(record, AnnotationRecord) and record.is_annotated


@dataclass(frozen=True)
class PatchIndex:
    """The usable patches of several slides, as parallel arrays of length n.

    A slide whose readers are learned from has an entry for each of them, and a patch a row for each.
    slide: int32, position in ``entries``; patch_id: uint32; x, y: int32, level-0 px; tissue: float32, share of the
    patch; target: see patch_targets; size: px at ``mpp`` µm per px; stride: px at ``mpp``.
    """

    entries: tuple[SlideEntry, ...]
    slide: np.ndarray
    patch_id: np.ndarray
    x: np.ndarray
    y: np.ndarray
    tissue: np.ndarray
    target: np.ndarray
    size: PatchPixels
    mpp: Mpp
    stride: PatchPixels

    def __len__(self) -> int:
        return len(self.slide)

    def take(self, chosen: np.ndarray) -> PatchIndex:
        """The patches at ``chosen`` (indices or a mask)."""
        arrays = ("slide", "patch_id", "x", "y", "tissue", "target")
        return replace(self, **{name: getattr(self, name)[chosen] for name in arrays})

    @property
    def slide_number(self) -> np.ndarray:
        """Position of the first entry of each patch's slide, int (n,): the same for all of its readers."""
        ids = [entry.slide_id for entry in self.entries]
        first = {slide: position for position, slide in reversed(list(enumerate(ids)))}
        return np.array([first[slide] for slide in ids], np.int64)[self.slide]

    @property
    def parts(self) -> np.ndarray:
        """Share of each row in its patch, float64 (n,): 1, or one over the number of readers who labelled it."""
        if all(entry.reader is None for entry in self.entries):
            return np.ones(len(self))
        patch = self.slide_number << 32 | self.patch_id
        _, inverse, rows = np.unique(patch, return_inverse=True, return_counts=True)
        return 1 / rows[inverse]

    @property
    def named(self) -> str:
        """Ids of the slides, each once, for messages."""
        return ", ".join(dict.fromkeys(entry.slide_id for entry in self.entries))

    def describe(self, index: int) -> str:
        """Slide and position of a patch, for messages."""
        return f"slide {self.entries[self.slide[index]].slide_id} patch at x={self.x[index]} y={self.y[index]}"


def index_patches(entries: Sequence[SlideEntry], *, kind: Kind, target: Target) -> PatchIndex:
    """Collect all patches that are not excluded; quarantined slides have none.

    Raises HistomakeError if no patch is left, or if the tables have different grids.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    grids: set[tuple[PatchPixels, Mpp, PatchPixels]] = set()
    for position, entry in enumerate(entries):
        table, record = usable_patches(entry)
        if not table.num_rows:
            log.warning("%s", _why_none(entry, record))
            continue
        grid = SlideGrid.of_table(record).grid
        grids.add((grid.size, grid.mpp, grid.stride or grid.size))
        places = [table[name].to_numpy() for name in ("patch_id", "x", "y", "tissue")]
        targets = patch_targets(
            table, kind, target, labels=entry.labels, annotated=entry.is_annotated(), slide_id=entry.slide_id
        )
        parts.append((np.full(table.num_rows, position, np.int32), *places, targets))
    if not parts:
        raise HistomakeError(f"no slide has a usable patch: {'; '.join(without_patches(entries))}")
    if len(grids) > 1:
        raise HistomakeError(f"patch tables of different grids were mixed (size, mpp, stride): {sorted(grids)}")
    slide, patch_id, x, y, tissue, target_of = (np.concatenate(column) for column in zip(*parts, strict=True))
    size, mpp, stride = grids.pop()
    return PatchIndex(tuple(entries), slide, patch_id, x, y, tissue, target_of, size, mpp, stride)


def without_patches(entries: Sequence[SlideEntry]) -> list[str]:
    """Why slides have no usable patch, for messages, each once; nothing of slides that have one."""
    found = ((entry, *usable_patches(entry)) for entry in entries)
    return list(dict.fromkeys(_why_none(entry, record) for entry, table, record in found if not table.num_rows))


def _why_none(entry: SlideEntry, record: PatchTableRecord | Quarantined) -> str:
    if isinstance(record, Quarantined):
        return f"slide {entry.slide_id} is in quarantine ({record.reason}: {record.detail})"
    return f"all patches of slide {entry.slide_id} are excluded (see column excluded of the catalog)"


def usable_patches(entry: SlideEntry) -> tuple[pa.Table, PatchTableRecord | Quarantined]:
    """The slide's patches that are not excluded (none for a quarantined slide), and the table's record."""
    table, record = read_table(entry.table)
    return table.filter(pc.equal(table["excluded"].cast("string"), "")), record


def annotated_areas(entry: SlideEntry, patches: pa.Table) -> dict[str, np.ndarray]:
    """Annotated share float32 (n,) of each patch of a table with ``patch_id``, by class."""
    table, _ = read_table(entry.table)
    rows = np.searchsorted(table["patch_id"].to_numpy(), patches["patch_id"].to_numpy())
    names = [name for name in table.column_names if name.startswith("area_")]
    return {name.removeprefix("area_"): table[name].to_numpy()[rows] for name in names}


def annotated_shares(patches: PatchIndex, class_name: str) -> np.ndarray:
    """Share of each patch of the index that is annotated as a class: float32 (n,)."""
    shares = np.zeros(len(patches), np.float32)
    for position, entry in enumerate(patches.entries):
        mine = np.flatnonzero(patches.slide == position)
        if len(mine):
            table, _ = read_table(entry.table)
            rows = np.searchsorted(table["patch_id"].to_numpy(), patches.patch_id[mine])
            shares[mine] = table[f"area_{class_name}"].to_numpy()[rows]
    return shares


def patches_containing(patches: PatchIndex, class_name: str) -> np.ndarray:
    """Patches of the index that contain any area of an annotated class: bool (n,)."""
    return annotated_shares(patches, class_name) > 0


def output_sizes(patches: PatchIndex, outputs: Sequence[str], *, kind: Kind) -> np.ndarray:
    """Amount of training data per output, float64 (outputs,): patches or, for pixel classes, area in patches."""
    parts = patches.parts
    if not LEARNED[kind].per_pixel:
        known = patches.target != UNLABELLED
        return np.bincount(patches.target[known], parts[known], minlength=len(outputs))
    areas = {name: float(annotated_shares(patches, name) @ parts) for name in outputs if name != BACKGROUND}
    rest = max(float(parts.sum()) - sum(areas.values()), 0.0)
    return np.array([areas.get(name, rest) for name in outputs])
