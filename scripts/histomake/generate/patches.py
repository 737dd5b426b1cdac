"""Batches of unpaired patches of two sides, drawn inside tissue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from histomake.base.errors import HistomakeError
from histomake.base.rng import AUGMENT, counter_rng
from histomake.base.units import Mpp, PatchPixels
from histomake.config import Model
from histomake.learn.data.patch_index import PatchIndex, SlideEntry, usable_patches, without_patches
from histomake.learn.data.reading import PatchReader
from histomake.learn.data.source import NEW, BatchSource, Room, needed
from histomake.patch.grid import SlideGrid
from histomake.patch.sampler import Sampler, balance_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class SidesBatch:
    """n patches of each side, uint8 (n, size, size, 3); index: int64 (n,), their positions in the side's index."""

    source: Tensor
    target: Tensor
    index: tuple[NDArray[np.int64], NDArray[np.int64]]
    read_errors: list[HistomakeError]


class SidesBatches(BatchSource[SidesBatch]):
    """Batches by number: patches of both sides, each drawn by itself, with equal chances for its slides.

    Patches are flipped and turned by quarters at random; colours are what is learned, so they stay as they are.
    """

    def __init__(self, sides: tuple[PatchIndex, PatchIndex], *, batch: int, seed: int) -> None:
        self.sides, self.batch, self.seed = sides, batch, seed
        self.readers = [PatchReader(patches, Model()) for patches in sides]
        self.samplers = [
            Sampler.from_weights(balance_weights(slide=side.slide, group=side.slide, balance="slide"), seed=seed)
            for side in sides
        ]

    @property
    def room_bytes(self) -> int:
        """See BatchSource."""
        return 2 * needed(self._shape, np.uint8)

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        size = self.sides[0].size
        return self.batch, size, size, 3

    def prepare(self, number: int, room: Room = NEW) -> SidesBatch:
        """See BatchSource."""
        drawn, images, errors = [], [], list[HistomakeError]()
        for side, (patches, reader) in enumerate(zip(self.sides, self.readers, strict=True)):
            index = self.samplers[side].draw(number, self.batch, worker=side)
            x, y = patches.x[index].astype(np.int64), patches.y[index].astype(np.int64)
            pixels, failed = reader.read(index, x, y, room.array(self._shape, np.uint8))
            rng = counter_rng(self.seed, worker=side, step=number, stream=AUGMENT)
            turns, flips = rng.integers(0, 4, len(index)), rng.random(len(index)) < 0.5
            for slot in range(len(index)):
                turned = np.rot90(pixels[slot], turns[slot])
                pixels[slot] = turned[:, ::-1].copy() if flips[slot] else turned.copy()
            drawn.append(index)
            images.append(torch.from_numpy(pixels))
            errors += failed.values()
        return SidesBatch(images[0], images[1], (drawn[0], drawn[1]), errors)


def index_side(entries: Sequence[SlideEntry], side: str) -> PatchIndex:
    """All patches of the slides of one side that are not excluded.

    Raises HistomakeError if the side has no usable patch.
    """
    return index_slides(entries, f"side {side!r} of the stain transfer")


def index_slides(entries: Sequence[SlideEntry], what: str) -> PatchIndex:
    """All patches of slides that are not excluded; ``what`` the slides are is named in messages.

    Raises HistomakeError if there is no usable patch.
    """
    found = [(position, *usable_patches(entry)) for position, entry in enumerate(entries)]
    used = [(position, table, record) for position, table, record in found if table.num_rows]
    if not used:
        reasons = "; ".join(without_patches(entries)) or "it has no slide"
        raise HistomakeError(f"{what} has no usable patch: {reasons}")
    names = ("patch_id", "x", "y", "tissue")
    columns = {name: np.concatenate([table[name].to_numpy() for _, table, _ in used]) for name in names}
    slide = np.repeat([position for position, _, _ in used], [table.num_rows for _, table, _ in used]).astype(np.int32)
    grid = SlideGrid.of_table(used[0][2]).grid
    return PatchIndex(
        entries=tuple(entries),
        slide=slide,
        **columns,
        target=np.zeros(len(slide), np.int64),
        size=PatchPixels(grid.size),
        mpp=Mpp(grid.mpp),
        stride=PatchPixels(grid.stride or grid.size),
    )
