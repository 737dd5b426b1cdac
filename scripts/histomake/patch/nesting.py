"""Which patch of a coarser grid lies around each patch of a finer one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from histomake.base.units import Mpp, PatchPixels, rescale

if TYPE_CHECKING:
    from numpy.typing import NDArray


class PlacedPatches(Protocol):
    """Patches of one grid on one slide.

    x, y: int32 (n,), corners in level-0 px. size, stride: px at ``mpp`` µm per px.
    """

    @property
    def x(self) -> NDArray[np.int32]: ...
    @property
    def y(self) -> NDArray[np.int32]: ...
    @property
    def size(self) -> PatchPixels: ...
    @property
    def stride(self) -> PatchPixels: ...
    @property
    def mpp(self) -> Mpp: ...


def patches_around(coarse: PlacedPatches, fine: PlacedPatches, mpp: Mpp) -> NDArray[np.int64]:
    """Return the index of the coarse patch nearest to each fine patch's centre and containing it, or -1, int64 (n,).

    ``mpp``: of the slide's level 0.
    """
    if not len(coarse.x):
        return np.full(len(fine.x), -1, np.int64)
    step, span = (rescale(length, coarse.mpp, mpp) for length in (coarse.stride, coarse.size))
    half = rescale(fine.size, fine.mpp, mpp) / 2
    cells = {
        cell: i
        for i, cell in enumerate(zip(np.rint(coarse.x / step).tolist(), np.rint(coarse.y / step).tolist(), strict=True))
    }
    # The patch with the nearest centre is used; if patches overlap, several contain the point.
    columns, rows = (np.rint((c + half - span / 2) / step).astype(int) for c in (fine.x, fine.y))
    found = np.array([cells.get(cell, -1) for cell in zip(columns.tolist(), rows.tolist(), strict=True)], np.int64)
    inside = np.ones(len(fine.x), bool)
    for centre, start in ((fine.x + half, coarse.x), (fine.y + half, coarse.y)):
        offset = centre - start[found]
        inside &= (offset >= 0) & (offset < span)
    return np.where(inside, found, -1)
