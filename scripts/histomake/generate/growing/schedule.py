"""The course of a growing training: which size, batch and blend a step has, a function of the images shown so far."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from histomake.config import Generator

GROUP = 4
"""Images that the critic's deviation is taken over; batches are multiples of it."""

FULL_BATCH_SIZE = 16
"""Edge of the largest images of which a step takes the full batch."""


@dataclass(frozen=True)
class Phase:
    """Steps of one size: while it is faded in, or afterwards. first: its first step; images: to be shown."""

    number: int
    size: int
    fading: bool
    batch: int
    images: int
    first: int

    @property
    def steps(self) -> int:
        """Steps that show all images; the last one may show a few more."""
        return -(-self.images // self.batch)

    @property
    def end(self) -> int:
        """The step after the last one."""
        return self.first + self.steps

    def alpha(self, step: int) -> float:
        """Share of the new size in the blend of a step: 0 at the beginning of the fade, 1 when it has ended."""
        return min((step - self.first) * self.batch / self.images, 1.0) if self.fading else 1.0


class Schedule:
    """The phases of a training. With ``fade`` 0 no size is faded in."""

    def __init__(self, sizes: Sequence[int], *, images: int, fade: int, batch: int) -> None:
        self.phases: list[Phase] = []
        for level, size in enumerate(sizes):
            for fading, shown in ((True, fade if level else 0), (False, images)):
                if shown:
                    first = self.phases[-1].end if self.phases else 0
                    phase = Phase(len(self.phases), size, fading, batch_at(size, batch), shown, first)
                    self.phases.append(phase)
        self._starts = [phase.first for phase in self.phases]

    @classmethod
    def of(cls, generator: Generator) -> Schedule:
        """The schedule of a section of the configuration."""
        return cls(generator.sizes, images=generator.images, fade=generator.fade, batch=generator.train.batch)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.phases[-1].end

    def at(self, step: int) -> Phase:
        """The phase of a step; behind the end, the last one."""
        return self.phases[bisect_right(self._starts, step) - 1]

    def shown(self, step: int) -> int:
        """Images shown before a step."""
        phase = self.at(step)
        return sum(p.steps * p.batch for p in self.phases[: phase.number]) + (step - phase.first) * phase.batch


def batch_at(size: int, batch: int) -> int:
    """Images per step of a size: ``batch`` up to 16 px, then half as many with each size; at least GROUP."""
    return max(GROUP, min(batch, batch * FULL_BATCH_SIZE // size) // GROUP * GROUP)
