"""Owns the cascade itself: what is accepted, computed and rejected, level by level, over one slide.

There is one implementation. The deployed cascade asks it with answers from networks, the threshold search and the
tests with answers from stored maps, the dense baseline with a single level.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from histomake.cascade.levels import Level, Window, nearest, support, upsample
from histomake.config import CascadeThresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray

REJECTED, COMPUTED, ACCEPTED = 0, 1, 2
BAND = 1024
ROUNDING = 1e-6
"""Bilinear interpolation can exceed the larger of two values by rounding, never by this much."""


class Answers(Protocol):
    """Where probabilities come from."""

    def of(self, level: Level, windows: Sequence[Window]) -> Iterable[NDArray[np.float32]]:
        """For each window of a level, p1 and p2 of its pixels: float32 (2, height, width)."""
        ...


@dataclass(frozen=True)
class LevelMap:
    """What the cascade knows of one level of a slide.

    ``state``: uint8 (height, width) of REJECTED, COMPUTED, ACCEPTED. ``p``: float32 (2, height, width), p1 and p2 where
    computed, (0, 1) where accepted, (0, 0) where rejected; p0 is what is missing to 1. ``blocks`` were computed, of
    ``block_pixels`` pixels in all: those that were undecided, and those that came along.
    """

    level: Level
    state: NDArray[np.uint8]
    p: NDArray[np.float32]
    blocks: int = 0
    block_pixels: int = 0

    @classmethod
    def blank(cls, level: Level, folder: Path | None) -> LevelMap:
        """Everything rejected; in memory, or in sparse files of ``folder`` so that size is no matter."""
        shape = (level.height, level.width)
        if folder is None:
            return cls(level, np.zeros(shape, np.uint8), np.zeros((2, *shape), np.float32))
        state = np.memmap(folder / f"state{level.number}", np.uint8, "w+", shape=shape)
        return cls(level, state, np.memmap(folder / f"p{level.number}", np.float32, "w+", shape=(2, *shape)))


@dataclass(frozen=True)
class LevelCost:
    """What became of the pixels of one level, as counts, and which blocks of how many pixels were computed."""

    number: int
    pixels: int
    computed: int
    accepted: int
    rejected: int
    blocks: int
    block_pixels: int


def decide(p: NDArray[np.float32], inherited: NDArray[np.bool_], *, lower: float, upper: float) -> NDArray[np.uint8]:
    """State of pixels of the next finer level, from the coarser level's upsampled probabilities.

    Accept where p2 >= ``upper`` or where the coarser level had accepted; else compute where p1 + p2 >= ``lower`` (and
    not zero: what is rejected stays so at ``lower`` 0); else reject. Accept wins.

    Args:
        p: (2, h, w), p1 and p2.
        inherited: (h, w), accepted at a coarser level.
    """
    nucleus = p[0] + p[1]
    state = ((nucleus >= lower) & (nucleus > 0)).astype(np.uint8)  # COMPUTED is 1
    state[inherited | (p[1] >= upper)] = ACCEPTED
    return state


def run_cascade(
    levels: Sequence[Level], answers: Answers, thresholds: CascadeThresholds, *, block: int, folder: Path | None = None
) -> list[LevelMap]:
    """The maps of all levels, coarsest first: the coarsest computed everywhere, the others where undecided.

    Args:
        levels: finest first; their ``number`` names the thresholds that apply to them.
        block: edge of the blocks that are decided on together, a multiple of 8; changes memory and speed, never the
            result.
        folder: where maps lie on disk; None keeps them in memory.
    """
    maps: list[LevelMap] = []
    for level in reversed(levels):
        current = LevelMap.blank(level, folder)
        windows = list(_undecided(maps[-1] if maps else None, current, thresholds, block))
        for window, values in zip(windows, answers.of(level, windows), strict=True):
            here = window.slices
            np.copyto(current.p[:, *here], values, where=current.state[here] == COMPUTED)
        maps.append(replace(current, blocks=len(windows), block_pixels=sum(w.height * w.width for w in windows)))
    return maps


def _undecided(
    coarse: LevelMap | None, current: LevelMap, thresholds: CascadeThresholds, block: int
) -> Iterator[Window]:
    """Decide every block of ``current`` in place; yields the blocks that have pixels to compute."""
    for window in current.level.blocks(*current.level.block_shape(block)):
        if coarse is None:
            current.state[window.slices] = COMPUTED
            yield window
            continue
        state = _decide_window(coarse, current.level, window, thresholds)
        if state is None:
            continue
        current.state[window.slices] = state
        current.p[1][window.slices] = state == ACCEPTED
        if (state == COMPUTED).any():
            yield window


def _decide_window(
    coarse: LevelMap, level: Level, window: Window, thresholds: CascadeThresholds
) -> NDArray[np.uint8] | None:
    """`decide` for a window of ``level``; None when all of it is plainly rejected."""
    lower, upper = (t[coarse.level.number - 2] for t in (thresholds.lower, thresholds.upper))
    ratio, size = coarse.level.mpp / level.mpp, (coarse.level.height, coarse.level.width)
    region = support(window, ratio=ratio, size=size)
    p = np.asarray(coarse.p[:, *region.slices])
    highest = float((p[0] + p[1]).max())
    if highest < min(lower, upper) - ROUNDING or (highest == 0 and np.float32(upper) > 0):
        return None
    rows = nearest(window.y, window.height, ratio=ratio, size=size[0])
    columns = nearest(window.x, window.width, ratio=ratio, size=size[1])
    inherited = (coarse.state[region.slices] == ACCEPTED)[np.ix_(rows - region.y, columns - region.x)]
    fine = upsample(p, ratio=ratio, window=window, region=region, size=size)
    return decide(fine, inherited, lower=lower, upper=upper)


def nuclei(finest: LevelMap, window: Window, *, cut: float) -> NDArray[np.bool_]:
    """The mask before holes are filled: p1 of level 1 above ``cut``, and everything accepted on the way."""
    here = window.slices
    return (finest.p[0][here] > cut) | (finest.state[here] == ACCEPTED)


def costs(maps: Iterable[LevelMap]) -> list[LevelCost]:
    """Shares of every level, finest first."""
    found = []
    for m in maps:
        bands = (m.state[top : top + BAND] for top in range(0, m.level.height, BAND))
        counts = np.sum([[np.count_nonzero(b == s) for s in (REJECTED, COMPUTED, ACCEPTED)] for b in bands], axis=0)
        rejected, computed, accepted = map(int, counts)
        found.append(LevelCost(m.level.number, m.level.pixels, computed, accepted, rejected, m.blocks, m.block_pixels))
    return sorted(found, key=lambda c: c.number)


def pixel_evaluations(found: Iterable[LevelCost]) -> int:
    """Pixels a network answered for, over all levels (the paper's cost: one patch each)."""
    return sum(cost.computed for cost in found)


def block_pixels(found: Iterable[LevelCost]) -> int:
    """Pixels of the blocks that were read and computed, over all levels: what time goes by."""
    return sum(cost.block_pixels for cost in found)
