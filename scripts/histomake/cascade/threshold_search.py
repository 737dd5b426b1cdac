"""Search of the thresholds of a cascade, and the choice among them: of nuclei and of patches alike.

The search knows no images. It asks a simulator, which runs the deployed cascade on stored results, for the quality and
the cost of thresholds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from histomake.base.records.cascade_thresholds import Rule, SearchMethod
from histomake.base.rng import counter_rng
from histomake.config import ThresholdChoice

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

MUTATED = 3
NEIGHBOURHOOD = 6
LOWER_2_INDEX = 2
"""Index of level 2's lower threshold in the order of `Simulation.trial`."""

ROUNDING = 1e-9


class Tried(Protocol):
    """Quality and cost of thresholds on validation patients."""

    @property
    def f(self) -> float:
        """The quality, larger is better."""
        ...

    @property
    def cost(self) -> float:
        """The quantity to minimise, as a share of the dense cost."""
        ...

    @property
    def work(self) -> float:
        """What the cascade computes, as a share of what the dense network does."""
        ...

    @property
    def values(self) -> list[float]:
        """The thresholds, in the order of `Simulation.trial`."""
        ...

    def loss(self, dense: Self) -> float:
        """How much quality is lost against the dense network."""
        ...


class Simulation[T: Tried](Protocol):
    """Scores thresholds on validation slides."""

    @property
    def depth(self) -> int:
        """Number of levels."""
        ...

    def trial(self, values: Sequence[float], *, levels: int, method: SearchMethod) -> T:
        """Score thresholds, in the order cut, upper 2, lower 2, upper 3, …, with the finest ``levels`` levels."""
        ...


def pareto_front[T: Tried](trials: Iterable[T]) -> list[T]:
    """Return the trials for which no other is at least as cheap and better, cheapest first."""
    front: list[T] = []
    for trial in sorted(trials, key=lambda t: (t.cost, -t.f)):
        if not front or trial.f > front[-1].f:
            front.append(trial)
    return front


def search[T: Tried](
    simulator: Simulation[T],
    candidates: Sequence[NDArray[np.float64]],
    dense: T,
    config: ThresholdChoice,
    *,
    seed: int,
) -> list[T]:
    """Search coordinate-wise, with and without level 1, then jointly around the front; return the different trials.

    ``candidates``: values to try of each threshold, in the order of `Simulation.trial`.
    """
    found = [_by_coordinate(simulator, candidates, dense, config, skip=skip) for skip in (False, True)]
    found += _jointly(simulator, candidates, found, config, seed)
    return list({id(t): t for t in found}.values())


def choose[T: Tried](trials: Sequence[T], dense: T, config: ThresholdChoice) -> tuple[T, Rule]:
    """Choose the cheapest trial within ``max_loss``; if it saves less than ``min_saving``, the best that saves it.

    Only trials with less work than the dense network can be chosen: where most blocks or patches are computed at
    several levels, a cascade costs more than it saves. Without such a trial the dense network is used.
    """
    near = [t for t in trials if t.loss(dense) <= config.max_loss + ROUNDING]
    paying = [t for t in trials if t.work < 1]
    if cheap := [t for t in paying if t in near]:
        cheapest = min(cheap, key=lambda t: (t.cost, -t.f))
        if 1 - cheapest.cost >= config.min_saving:
            return cheapest, "max_loss"
    saving = [t for t in paying if 1 - t.cost >= config.min_saving]
    if saving and config.min_saving:
        return max(saving, key=lambda t: (t.f, -t.cost)), "min_saving"
    if paying and config.min_saving:
        log.warning("no thresholds save %.0f %%; using the cheapest", 100 * config.min_saving)
        return min(paying, key=lambda t: (t.cost, -t.f)), "cheapest"
    best = min((t.work for t in near), default=None)
    reason = "no thresholds are within max_loss" if best is None else f"a cascade costs {best:.2f} times as much"
    log.warning("the dense network is used: %s (on the validation slides)", reason)
    return dense, "dense"


def _by_coordinate[T: Tried](
    simulator: Simulation[T],
    candidates: Sequence[NDArray[np.float64]],
    dense: T,
    config: ThresholdChoice,
    *,
    skip: bool,
) -> T:
    """Search in RADHicaL's order: cut, then upper and lower of level 2, of level 3 …, with open coarser levels.

    The paper chose thresholds by eye; here each threshold may use an equal part of ``max_loss``. With ``skip``,
    level 2 leaves nothing to level 1. The stepwise search would not find this, because it leads over worse
    thresholds.
    """
    values = [dense.values[0]] + [1.0, 0.0] * (simulator.depth - 1)
    positions = list(range(1, len(values)))
    if skip and simulator.depth > 1:
        values[LOWER_2_INDEX] = 1.0
        positions.remove(LOWER_2_INDEX)
    for position in positions:
        depth = (position + 1) // 2 + 1
        budget = config.max_loss * position / (len(values) - 1)

        def with_value(value: float, position: int = position, depth: int = depth) -> T:
            tried = [*values[:position], value, *values[position + 1 :]]
            return simulator.trial(tried, levels=depth, method="coordinate")

        tried = {float(v): with_value(v) for v in (*candidates[position], values[position])}
        near = {v: t for v, t in tried.items() if t.loss(dense) <= budget + ROUNDING}
        if near:
            values[position] = min(near, key=lambda v: (near[v].cost, -near[v].f))
        else:
            values[position] = min(tried, key=lambda v: tried[v].loss(dense))
    return simulator.trial(values, levels=simulator.depth, method="coordinate")


def _jointly[T: Tried](
    simulator: Simulation[T],
    candidates: Sequence[NDArray[np.float64]],
    start: Sequence[T],
    config: ThresholdChoice,
    seed: int,
) -> list[T]:
    """Search all thresholds jointly: each step changes one to three thresholds of a random trial on the front."""
    rng = counter_rng(seed, stream=1)
    trials = list(start)
    free = [position for position, grid in enumerate(candidates) if len(grid) > 1]
    for _ in range(config.joint):
        front = pareto_front(trials)
        values = list(front[rng.integers(len(front))].values)
        for position in rng.choice(free, size=min(len(free), int(rng.integers(1, MUTATED + 1))), replace=False):
            grid = candidates[position]
            here = int(np.searchsorted(grid, values[position])) + int(rng.integers(-NEIGHBOURHOOD, NEIGHBOURHOOD + 1))
            values[position] = float(grid[np.clip(here, 0, len(grid) - 1)])
        trials.append(simulator.trial(values, levels=simulator.depth, method="joint"))
    return trials
