"""Patch grids: which cells a slide has and where they lie.

A grid is configured at its own mpp (size and stride in patch pixels); cells are placed in level-0 pixels. Cell ``i`` of
an axis starts at ``floor(i * stride * mpp / mpp0 + 0.5)``, so rounding never accumulates: at any distance from the
origin a cell is at most half a level-0 pixel from its exact place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.records.manifest import Manifest
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.record import Quarantined, usable
from histomake.base.records.warning import SlideWarning
from histomake.base.units import Level0Pixels, Mpp, enlarged_too_much, rescale
from histomake.config import Grid

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SlideGrid:
    """A patch grid on one slide of ``width`` x ``height`` level-0 pixels, which are ``mpp`` micrometres wide."""

    width: Level0Pixels
    height: Level0Pixels
    mpp: Mpp
    grid: Grid

    @classmethod
    def of_table(cls, record: PatchTableRecord | Quarantined) -> SlideGrid:
        """The grid of a patch table, from the table's record (see `histomake.patch.table.read_table`).

        Raises SlideError if the slide is in quarantine.
        """
        known = usable(record)
        return cls(known.width, known.height, known.mpp, Grid.model_validate(known.grid))

    @property
    def scale(self) -> float:
        """Level-0 pixels per patch pixel."""
        return rescale(1, self.grid.mpp, self.mpp)

    @property
    def too_coarse(self) -> str | None:
        """Why the slide has no patch of this grid: its pixels would have to be enlarged too much. None if it has some.

        An enlarged picture looks like one at the grid's resolution, but shows less.
        """
        if not enlarged_too_much(self.mpp, self.grid.mpp, self.grid.max_upsampling):
            return None
        return (
            f"The slide has {self.mpp:g} µm per pixel, {self.mpp / self.grid.mpp:.3g} times as coarse as the grid "
            f"({self.grid.mpp:g}; max_upsampling is {self.grid.max_upsampling:g}): all patches are excluded. Use a "
            "coarser grid, or give the mpp in the sheet if that of the file is wrong"
        )

    @property
    def span(self) -> float:
        """Edge of a patch in level-0 pixels."""
        return rescale(self.grid.size, self.grid.mpp, self.mpp)

    @property
    def step(self) -> float:
        """Distance between the starts of neighbouring cells in level-0 pixels, before rounding."""
        return rescale(self.grid.stride or self.grid.size, self.grid.mpp, self.mpp)

    @property
    def middle(self) -> tuple[float, float]:
        """The part of a patch that a picture may colour: the offset of its corner from the patch's, and its edge.

        Both in level-0 pixels. Where patches overlap, it is the central square that no other patch covers, so that
        colours do not overlap and stay on the tissue they describe; otherwise the whole patch.
        """
        edge = min(self.span, self.step)
        return (self.span - edge) / 2, edge

    def axes(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Starts of the columns and of the rows, int32 level-0 pixels, ascending: all starts inside the slide."""
        return _starts(self.width, self.step), _starts(self.height, self.step)

    def cells(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Top-left corners of all cells, sorted by y then x.

        Cells over the right or lower edge are included whatever ``grid.border`` says: the patch table marks them.

        Returns:
            x and y, each int32 of shape (n,), in level-0 pixels.
        """
        columns, rows = self.axes()
        return np.tile(columns, rows.size), np.repeat(rows, columns.size)

    def over_edge(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which columns and which rows reach past the slide by at least half a level-0 pixel (less is rounding)."""
        columns, rows = self.axes()
        return columns + self.span >= self.width + 0.5, rows + self.span >= self.height + 0.5


def too_coarse(manifests: Iterable[Manifest], grids: Mapping[str, Grid]) -> list[SlideWarning]:
    """Warnings of slides that are too coarse for a grid, by its name; sorted by slide."""
    found = []
    for manifest in sorted(manifests, key=lambda manifest: manifest.slide_id):
        for name, grid in grids.items():
            reason = SlideGrid(manifest.width, manifest.height, manifest.mpp, grid).too_coarse
            if reason:
                found.append(SlideWarning(slide_id=manifest.slide_id, about=f"grid {name}", text=reason))
    return found


def _starts(length: Level0Pixels, step: float) -> NDArray[np.int32]:
    # One more than can fit, because rounding may pull a start back over the edge; those outside are cut off.
    candidates = np.floor(np.arange(int(length / step) + 2) * step + 0.5)
    # A step below one level-0 pixel would place several cells on one pixel; unique keeps the first of each.
    return np.unique(candidates[candidates < length]).astype(np.int32)
