"""The cascade: which pixels of a slide are accepted, computed or rejected, level by level.

There is a single implementation. The deployed cascade runs it on the output of networks, the threshold search and the
tests run it on stored maps, and the dense baseline runs it with a single level.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from histomake.base.windows import Window
from histomake.cascade.levels import Level, nearest, support, upsample
from histomake.config import CascadeThresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray

REJECTED, COMPUTED, ACCEPTED = 0, 1, 2
BAND = 1024
ROUNDING = 1e-6
"""Upper limit of the rounding error by which bilinear interpolation can exceed the larger of two values."""


class Answers(Protocol):
    """Source of probabilities."""

    def of(self, level: Level, windows: Sequence[Window]) -> Iterable[NDArray[np.float32]]:
        """Return p1 and p2 of the pixels of each window of a level: float32 (2, height, width)."""
        ...


@dataclass(frozen=True)
class LevelMap:
    """Result of the cascade on one level of a slide.

    Attributes:
        state: uint8 (height, width) of REJECTED, COMPUTED, ACCEPTED.
        p: float32 (2, height, width), p1 and p2 where computed, (0, 1) where accepted, (0, 0) where rejected;
            p0 = 1 - p1 - p2.
        blocks: Number of blocks that were computed.
        block_pixels: Number of pixels of these blocks, decided or not.
    """

    level: Level
    state: NDArray[np.uint8]
    p: NDArray[np.float32]
    blocks: int = 0
    block_pixels: int = 0

    @classmethod
    def blank(cls, level: Level, folder: Path | None) -> LevelMap:
        """Create a map with everything rejected, in memory or, for large slides, in sparse files in ``folder``."""
        shape = (level.height, level.width)
        if folder is None:
            return cls(level, np.zeros(shape, np.uint8), np.zeros((2, *shape), np.float32))
        state = np.memmap(folder / f"state{level.number}", np.uint8, "w+", shape=shape)
        return cls(level, state, np.memmap(folder / f"p{level.number}", np.float32, "w+", shape=(2, *shape)))


@dataclass(frozen=True)
class LevelCost:
    """Counts of one level's pixels by state, and of the blocks and their pixels that were computed."""

    number: int
    pixels: int
    computed: int
    accepted: int
    rejected: int
    blocks: int
    block_pixels: int


def decide(p: NDArray[np.float32], inherited: NDArray[np.bool_], *, lower: float, upper: float) -> NDArray[np.uint8]:
    """Decide on pixels of the next finer level from the upsampled probabilities of the coarser level.

    Accept if p2 >= ``upper`` or the coarser level accepted. Otherwise compute if p1 + p2 >= ``lower`` and p1 + p2 is
    not zero, so that rejected pixels stay rejected with ``lower`` = 0. Otherwise reject.

    Args:
        p: (2, h, w), p1 and p2.
        inherited: (h, w), whether a coarser level accepted the pixel.
        lower: Threshold on p1 + p2.
        upper: Threshold on p2.
    """
    nucleus = p[0] + p[1]
    state = ((nucleus >= lower) & (nucleus > 0)).astype(np.uint8)  # COMPUTED is 1
    state[inherited | (p[1] >= upper)] = ACCEPTED
    return state


def run_cascade(
    levels: Sequence[Level], answers: Answers, thresholds: CascadeThresholds, *, block: int, folder: Path | None = None
) -> list[LevelMap]:
    """Return the maps of all levels, coarsest first. The coarsest is computed everywhere, others where undecided.

    Args:
        levels: Levels, finest first; ``number`` selects the thresholds that apply to a level.
        answers: Source of probabilities.
        thresholds: Thresholds of the cascade.
        block: Edge of the blocks that are decided together, a multiple of 8. It affects memory and speed, but not the
            result.
        folder: Folder for maps on disk; None keeps them in memory.
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
    """Decide on every block of ``current`` in place; yield the blocks with pixels to compute."""
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
    """Apply `decide` to a window of ``level``; return None if the whole window is clearly rejected."""
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
    """Return the mask before holes are filled: p1 of level 1 above ``cut``, and all accepted pixels."""
    here = window.slices
    return (finest.p[0][here] > cut) | (finest.state[here] == ACCEPTED)


def costs(maps: Iterable[LevelMap]) -> list[LevelCost]:
    """Return counts of every level, finest first."""
    found = []
    for m in maps:
        bands = (m.state[top : top + BAND] for top in range(0, m.level.height, BAND))
        counts = np.sum([[np.count_nonzero(b == s) for s in (REJECTED, COMPUTED, ACCEPTED)] for b in bands], axis=0)
        rejected, computed, accepted = map(int, counts)
        found.append(LevelCost(m.level.number, m.level.pixels, computed, accepted, rejected, m.blocks, m.block_pixels))
    return sorted(found, key=lambda c: c.number)


def pixel_evaluations(found: Iterable[LevelCost]) -> int:
    """Return the number of pixels evaluated by a network on all levels (the paper's cost: one patch per pixel)."""
    return sum(cost.computed for cost in found)


def block_pixels(found: Iterable[LevelCost]) -> int:
    """Return the number of pixels of all blocks that were read and computed, which determines the time."""
    return sum(cost.block_pixels for cost in found)
