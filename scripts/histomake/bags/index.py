"""The bags of a set of slides: which patches and which target each of them has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from histomake.bags.batch import Bags
from histomake.base.errors import HistomakeError
from histomake.features.index import FeatureReader
from histomake.features.store import read_features
from histomake.learn.data.patch_index import PatchIndex, SlideEntry
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table
from histomake.target.targets import is_known

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


class PatchVectors(Protocol):
    """Vectors of the patches of an index."""

    patches: PatchIndex

    def read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors float32 (n, d) of the patches at ``index``, in its order."""


@dataclass(frozen=True)
class BagIndex:
    """Bags of patches, in the order of their first patch.

    reader: vectors of the patches, stored or computed; its index holds the patches of all bags. names: slide or patient
    of each bag. members: patches of each bag, ascending indices int64 (n,).
    """

    reader: PatchVectors
    names: Sequence[str]
    members: Sequence[NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def stored(self) -> FeatureReader:
        """The vectors as they are stored. Raises TypeError if they are computed from pixels."""
        if not isinstance(self.reader, FeatureReader):
            raise TypeError("the vectors of these bags are computed from pixels")
        return self.reader

    @property
    def patches(self) -> PatchIndex:
        """The patches of all bags."""
        return self.reader.patches

    @cached_property
    def first(self) -> PatchIndex:
        """One patch of each bag, with the target of the bag; what is drawn and measured by bag takes it."""
        return self.patches.take(np.array([members[0] for members in self.members], np.int64))

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """Slide, column and row of each patch, int64 (n, 3), in strides of the grid."""
        patches = self.patches
        found = np.empty((len(patches), 3), np.int64)
        found[:, 0] = patches.slide
        for position in np.unique(patches.slide):
            mine = patches.slide == position
            step = SlideGrid.of_table(read_table(patches.entries[position].table)[1]).step
            found[mine, 1] = np.rint(patches.x[mine] / step)
            found[mine, 2] = np.rint(patches.y[mine] / step)
        return found

    def part(self, bag: int, start: int, stop: int) -> Bags:
        """The patches of one bag from the number ``start`` up to, without, ``stop``."""
        index = self.members[bag][start:stop]
        return Bags(torch.from_numpy(self.reader.read(index)), [len(index)], torch.from_numpy(self.places[index]))


def index_bags(
    patches: PatchIndex, files: Mapping[str, Path], column: str, *, level: str, min_tissue: float
) -> BagIndex:
    """The bags of patches whose targets are those of their slides.

    Args:
        patches: Patches of the slides.
        files: File of features of each slide, by id.
        column: Column of the features.
        level: "slide": each slide is a bag; "patient": all slides of a patient are.
        min_tissue: Smallest tissue share of a patch of a bag.

    If the features are of chosen patches, the others are not in the bags. Raises HistomakeError if no patch is left, or
    slides of a patient that is a bag have different targets.
    """
    patches = with_vectors(patches, files, column)
    return gather_bags(patches, lambda kept: FeatureReader(kept, files, column), level=level, min_tissue=min_tissue)


def with_vectors(patches: PatchIndex, files: Mapping[str, Path], column: str) -> PatchIndex:
    """The patches that a column of features has vectors of: all, unless patches were chosen."""
    kept = np.ones(len(patches), bool)
    for position in np.unique(patches.slide):
        found = read_features(files[patches.entries[position].slide_id])
        described = found.column(column)
        if described is not None and described.chooser is not None:
            mine = patches.slide == position
            kept[mine] = np.isin(patches.patch_id[mine], found.patch_id[found.given(column)])
    return patches if kept.all() else patches.take(kept)


def gather_bags(
    patches: PatchIndex, vectors: Callable[[PatchIndex], PatchVectors], *, level: str, min_tissue: float
) -> BagIndex:
    """`index_bags`, where ``vectors`` gives those of the patches that are kept."""
    owners = [bag_name(entry, level) for entry in patches.entries]
    patches = _of_tissue(patches, owners, min_tissue)
    names = list(dict.fromkeys(owners[slide] for slide in patches.slide))
    numbers = np.array([names.index(owner) if owner in names else -1 for owner in owners])
    order = np.argsort(numbers[patches.slide], kind="stable")
    bounds = np.searchsorted(numbers[patches.slide][order], np.arange(1, len(names)))
    members = np.split(order, bounds)
    _refuse_several_targets(patches, names, members)
    return BagIndex(vectors(patches), names, members)


def bag_name(entry: SlideEntry, level: str) -> str:
    """The slide or patient whose bag a slide belongs to."""
    return entry.slide_id if level == "slide" else entry.patient_id


def _of_tissue(patches: PatchIndex, owners: Sequence[str], min_tissue: float) -> PatchIndex:
    kept = patches.take(patches.tissue >= min_tissue)
    left = {owners[slide] for slide in kept.slide}
    for name in dict.fromkeys(owners):
        if name not in left:
            needed = f" with a tissue share of {min_tissue:g} or more" if min_tissue else ""
            log.warning("%s has no patch%s, and is no bag", name, needed)
    if not len(kept):
        raise HistomakeError(f"no patch has a tissue share of {min_tissue:g} or more; lower bag.min_tissue")
    return kept


def _refuse_several_targets(patches: PatchIndex, names: Sequence[str], members: Sequence[NDArray[np.int64]]) -> None:
    several = []
    for name, mine in zip(names, members, strict=True):
        target = patches.target[mine]
        # Unknown numbers beside known ones are equal; as NaN, they would differ from themselves.
        if len(np.unique(np.nan_to_num(target[is_known(target)], nan=-np.inf), axis=0)) > 1:
            slides = sorted({patches.entries[slide].slide_id for slide in patches.slide[mine]})
            several.append(f"{name} ({', '.join(slides)})")
    if several:
        raise HistomakeError(
            f"patients whose slides have different targets: {'; '.join(several)}. Give all slides of a patient the "
            "same value, or set level: slide"
        )


def without_unknown(bags: BagIndex) -> BagIndex:
    """The bags of known target."""
    known = np.flatnonzero(is_known(bags.first.target)).tolist()
    return replace(bags, names=[bags.names[i] for i in known], members=[bags.members[i] for i in known])
