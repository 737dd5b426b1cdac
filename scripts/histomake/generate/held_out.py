"""The held-out slides of a stain transfer, and their patches as scanned and in silico."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.units import Mpp
from histomake.generate.lattice import SlideLattice
from histomake.generate.networks import STEP
from histomake.generate.store import tissue_on
from histomake.generate.structure import Views
from histomake.learn.data.patch_index import SlideEntry, usable_patches
from histomake.slide.reader import open_slide
from histomake.tissue.mask import TissueMask

if TYPE_CHECKING:
    from numpy.typing import NDArray

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class HeldOut:
    """A held-out slide whose stain is changed. virtual: manifest of the virtual slide; mask, record: its tissue."""

    entry: SlideEntry
    virtual: Path
    mask: Path
    record: Path


class OpenPair:
    """A slide as scanned and in silico, in pixels of one lattice.

    Raises SlideError if one of them cannot be used.
    """

    def __init__(self, slide: HeldOut, mpp: Mpp, *, size: int, most: int) -> None:
        self.slide = slide
        self.scanned = SlideLattice(open_slide(slide.entry.manifest), mpp)
        self.virtual = open_slide(slide.virtual)
        self.mask = TissueMask.load(slide.mask, slide.record)
        self.boxes = patch_boxes(slide.entry, self.scanned, size=size, most=most)

    @property
    def width(self) -> int:
        """Width in pixels of the lattice."""
        return self.scanned.width

    @property
    def height(self) -> int:
        """Height in pixels of the lattice."""
        return self.scanned.height

    def changed(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels uint8 (height, width, 3) of a box of the virtual slide."""
        return self.virtual.read_level(0, x, y, width, height)

    def tissue(self, x: int, y: int, width: int, height: int) -> NDArray[np.bool_]:
        """Which pixels of a box are tissue, bool (height, width)."""
        return tissue_on(self.mask, self.scanned, (x, y, width, height))

    def windows(self) -> Iterator[Views]:
        """The patches before and after."""
        return (Views(self.scanned.read(*box), self.changed(*box), self.tissue(*box)) for box in self.boxes)


def patch_boxes(entry: SlideEntry, lattice: SlideLattice, *, size: int, most: int) -> list[Box]:
    """Boxes (x, y, size, size) of up to ``most`` usable patches spread over a slide, in pixels of the lattice.

    Corners are rounded to what a generator can be applied to.
    """
    table, _ = usable_patches(entry)
    if not table.num_rows:
        return []
    rows = np.unique(np.linspace(0, table.num_rows - 1, most).astype(int))
    corners = (np.rint(table[axis].to_numpy()[rows] / lattice.downsample / STEP).astype(int) * STEP for axis in "xy")
    return [(int(x), int(y), size, size) for x, y in zip(*corners, strict=True)]


def shares(count: int, slides: int) -> list[int]:
    """How many of ``count`` patches each of ``slides`` slides gives: equally many, at least one."""
    return [max(1, count // slides + (n < count % slides)) for n in range(slides)]


def spread(boxes: Sequence[Box], count: int) -> list[Box]:
    """Up to ``count`` boxes, spread over the slide."""
    if not boxes:
        return []
    return [boxes[n] for n in np.unique(np.linspace(0, len(boxes) - 1, count).astype(int))]


def read_patches(entry: SlideEntry, mpp: Mpp, *, size: int, most: int) -> list[NDArray[np.uint8]]:
    """Up to ``most`` patches of a scanned slide, uint8 (size, size, 3). Raises SlideError if it cannot be used."""
    with open_slide(entry.manifest) as reader:
        lattice = SlideLattice(reader, mpp)
        return [lattice.read(*box) for box in patch_boxes(entry, lattice, size=size, most=most)]
