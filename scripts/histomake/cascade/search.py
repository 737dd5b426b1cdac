"""Choice of thresholds on validation patients, as a Pareto front of cost and F.

Maps of all levels are computed once for the validation slides. `run_cascade`, which is also the deployed cascade, is
then run on them with many thresholds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.records.cascade_thresholds import (
    DenseScores,
    Parting,
    Rule,
    ScoredThresholds,
    SearchMethod,
    Thresholds,
    ThresholdSearch,
    ThresholdsRecord,
)
from histomake.cascade.answers import StoredAnswers
from histomake.cascade.fields import Field
from histomake.cascade.infer import block_multiply_adds, dense_multiply_adds, whole_labels
from histomake.cascade.levels import Level
from histomake.cascade.measures import score
from histomake.cascade.net import build_network
from histomake.cascade.run import block_pixels, costs, pixel_evaluations, run_cascade
from histomake.cascade.threshold_search import choose, pareto_front, search
from histomake.config import CascadeThresholds, Radhical

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

SUB_SAMPLE = 50_000


@dataclass(frozen=True)
class Case:
    """One validation slide: its levels, the maps of all levels, and its annotated nuclei (h, w) at level 1."""

    slide_id: str
    patient_id: str
    levels: Sequence[Level]
    answers: StoredAnswers
    truth: NDArray[np.int32]


@dataclass(frozen=True)
class Trial:
    """Result of one set of thresholds, as means over validation slides.

    Attributes:
        pixel_f: F of pixels; hardly affected if nuclei merge.
        nucleus_f: RADHicaL's F of nuclei; hardly affected if outlines are inaccurate.
        evaluated: Pixels that a network must evaluate, over all levels, as a share of the pixels of level 1.
        computed: Pixels of the blocks that contain them, in the same unit.
        multiply_adds: Multiply-adds of the networks, as a share of those of the dense network.
        cost: The quantity to minimise.
    """

    pixel_f: float
    nucleus_f: float
    evaluated: float
    computed: float
    multiply_adds: float
    cost: float
    thresholds: CascadeThresholds
    method: SearchMethod

    @property
    def f(self) -> float:
        """Mean of both F values."""
        return (self.pixel_f + self.nucleus_f) / 2

    @property
    def work(self) -> float:
        """Multiply-adds, which include those of pixels that share a block with others."""
        return self.multiply_adds

    @property
    def values(self) -> list[float]:
        """The thresholds in the order of `Simulator.trial`: cut, upper 2, lower 2, upper 3, …"""
        return _flat(self.thresholds)

    def loss(self, dense: Trial) -> float:
        """Return the larger loss of the two F values relative to the dense network."""
        return max(dense.pixel_f - self.pixel_f, dense.nucleus_f - self.nucleus_f)


@dataclass(frozen=True)
class SearchResult:
    """The chosen thresholds, the dense network with its own threshold, the rule that decided, and all trials."""

    chosen: Trial
    dense: Trial
    rule: Rule
    trials: list[Trial]

    def table(self) -> pd.DataFrame:
        """Return one row per trial: F, cost, thresholds, whether it is on the Pareto front, whether it was chosen."""
        front = {id(t) for t in pareto_front(self.trials)}
        rows = []
        for trial in self.trials:
            row: dict[str, object] = {"method": trial.method, "pixel_f": trial.pixel_f, "nucleus_f": trial.nucleus_f}
            row |= {"f": trial.f, "cost": trial.cost, "evaluated": trial.evaluated, "computed": trial.computed}
            row["multiply_adds"] = trial.multiply_adds
            row["cut"] = trial.thresholds.cut
            pairs = zip(trial.thresholds.lower, trial.thresholds.upper, strict=True)
            for level, (lower, upper) in enumerate(pairs, start=2):
                row |= {f"lower{level}": lower, f"upper{level}": upper}
            rows.append(row | {"on_front": id(trial) in front, "chosen": trial is self.chosen})
        return pd.DataFrame(rows).sort_values(["cost", "f"], ignore_index=True)


def check_disjoint(val: Iterable[str], test: Iterable[str]) -> None:
    """Refuse thresholds chosen on patients that are also used for testing."""
    shared = sorted(set(val) & set(test))
    if shared:
        raise ConfigError(
            f"patients in both validation and test: {', '.join(shared)}; correct the split column of the sheet"
        )


class Simulator:
    """Scores thresholds on the validation slides, with a cache of previous results."""

    def __init__(self, cases: Sequence[Case], config: Radhical) -> None:
        self.cases = [case for case in cases if case.truth.any()]
        if not self.cases:
            raise HistomakeError(
                "no validation slide has an annotated nucleus, so thresholds cannot be chosen; annotate nuclei on "
                "validation slides, or set radhical.*.thresholds"
            )
        self.complete, self.block, self.cost = config.train.complete, config.block_px, config.search.cost
        self.depth = len(cases[0].levels)
        # All levels have the same network. On the device "meta" only shapes are computed, which is enough to count.
        network = build_network(config.network).to("meta").eval()
        networks = dict.fromkeys(range(1, self.depth + 1), network)
        self._per_block = [block_multiply_adds(case.levels, networks, self.block) for case in self.cases]
        self._dense = [dense_multiply_adds(case.levels[0], network, self.block) for case in self.cases]
        self._known: dict[tuple[float, ...], Trial] = {}

    def trial(self, values: Sequence[float], *, levels: int, method: SearchMethod) -> Trial:
        """Score thresholds, in the order cut, upper 2, lower 2, upper 3, …, with the finest ``levels`` levels."""
        used = tuple(map(float, values[: 2 * levels - 1]))
        if used not in self._known:
            thresholds = CascadeThresholds(cut=used[0], upper=list(used[1::2]), lower=list(used[2::2]))
            means = np.mean([self._one(number, thresholds, levels) for number in range(len(self.cases))], axis=0)
            pixel_f, nucleus_f, evaluated, computed, work = map(float, means)
            # The dense network runs in larger blocks than the cascade.
            work = 1.0 if levels == 1 else work
            # The number of blocks alone is not usable: with most thresholds every block with a nucleus has pixels to
            # compute, so the search would find no direction of descent.
            cost = evaluated if self.cost == "evaluations" else (evaluated + computed) / 2
            self._known[used] = Trial(pixel_f, nucleus_f, evaluated, computed, work, cost, thresholds, method)
        return self._known[used]

    def _one(self, number: int, thresholds: CascadeThresholds, levels: int) -> tuple[float, float, float, float, float]:
        case, per_block = self.cases[number], self._per_block[number]
        finest = case.levels[0].pixels
        maps = run_cascade(case.levels[:levels], case.answers, thresholds, block=self.block)
        shares = costs(maps)
        scores = score(whole_labels(maps[-1], cut=thresholds.cut), case.truth, complete=self.complete)
        work = sum(per_block[c.number] * c.blocks for c in shares) / self._dense[number]
        return scores.pixel_f, scores.f, pixel_evaluations(shares) / finest, block_pixels(shares) / finest, work


def open_cases(fields: Sequence[Field], maps: Iterable[Path | str], patients: Mapping[str, str]) -> list[Case]:
    """Load validation slides with their precomputed maps; ``maps`` are files named by slide id.

    Slides without maps, because a tile could not be decoded, are left out. Raises HistomakeError if no slide remains.
    """
    by_slide = {Path(path).stem: path for path in maps}
    cases = []
    for field in fields:
        with np.load(by_slide[field.slide_id], allow_pickle=False) as stored:
            if not stored.files:
                log.warning("slide left out: %s has no maps; see the log of its job radhical_maps", field.slide_id)
                continue
            answers = StoredAnswers({level.number: stored[f"level{level.number}"] for level in field.levels})
        cases.append(Case(field.slide_id, patients[field.slide_id], field.levels, answers, field.truth.whole()))
    if not cases:
        raise HistomakeError("no validation slide has maps: see the logs of the jobs radhical_maps")
    return cases


def find_thresholds(cases: Sequence[Case], config: Radhical, *, seed: int) -> SearchResult:
    """Score the thresholds from the configuration on the validation slides, or search thresholds if there are none."""
    if config.thresholds is None:
        return search_thresholds(cases, config, seed=seed)
    simulator = Simulator(cases, config)
    dense = _dense(simulator, _candidates(simulator, config.search.candidates)[0])
    given = simulator.trial(_flat(config.thresholds), levels=simulator.depth, method="given")
    if given.multiply_adds > 1:
        log.warning("with radhical.*.thresholds the cascade costs %.2f times the dense network", given.multiply_adds)
    return SearchResult(given, dense, "given", [given])


def search_thresholds(cases: Sequence[Case], config: Radhical, *, seed: int) -> SearchResult:
    """Search coordinate-wise as in the paper, with and without level 1, then jointly around the front; then choose.

    If the annotation is incomplete, found objects that overlap no annotated nucleus do not count in either F.
    """
    simulator = Simulator(cases, config)
    candidates = _candidates(simulator, config.search.candidates)
    dense = _dense(simulator, candidates[0])
    if simulator.depth == 1:
        return SearchResult(dense, dense, "dense", [dense])
    trials = search(simulator, candidates, dense, config.search, seed=seed)
    chosen, rule = choose(trials, dense, config.search)
    log.info("dense F %.4f; chosen F %.4f at %.1f %% of the cost", dense.f, chosen.f, 100 * chosen.cost)
    return SearchResult(chosen, dense, rule, trials if chosen is not dense else [*trials, dense])


def _candidates(simulator: Simulator, number: int) -> list[NDArray[np.float64]]:
    """Return candidates for cut, upper 2, lower 2, …: half of them uniform in [0, 1], half at quantiles of the maps."""
    even = np.linspace(0, 1, max(2, number - number // 2))
    quantiles = np.linspace(0, 1, number // 2 + 2)[1:-1]
    found = []
    for position in range(2 * simulator.depth - 1):
        level = (position + 1) // 2 + 1
        which: Literal["p1", "p2", "sum"] = "p1" if position == 0 else "p2" if position % 2 else "sum"
        values = np.concatenate([_values(case, level, which) for case in simulator.cases])
        spread = np.quantile(values, quantiles) if values.size else []
        found.append(np.unique(np.round(np.concatenate([even, spread]), 4)))
    return found


def _values(case: Case, level: int, which: Literal["p1", "p2", "sum"]) -> NDArray[np.float32]:
    """Return at most SUB_SAMPLE probabilities of a level that are clearly larger than zero."""
    p = case.answers.maps[level]
    values = (p[0] if which == "p1" else p[1] if which == "p2" else p[0] + p[1]).ravel()
    values = values[:: max(1, values.size // SUB_SAMPLE)]
    return values[values > 1e-3]


def _dense(simulator: Simulator, cuts: NDArray[np.float64]) -> Trial:
    """Return the dense network with its best threshold by pixel F."""
    return max((simulator.trial([c], levels=1, method="coordinate") for c in cuts), key=lambda t: t.pixel_f)


def _flat(thresholds: CascadeThresholds) -> list[float]:
    """Return the thresholds in the order of `Simulator.trial`: cut, upper 2, lower 2, upper 3, …"""
    pairs = zip(thresholds.upper, thresholds.lower, strict=True)
    return [thresholds.cut, *(value for pair in pairs for value in pair)]


def search_record(result: SearchResult, parting: Parting) -> ThresholdsRecord:
    """Return the chosen thresholds and parting as a record."""
    dense = result.dense
    validation = ThresholdSearch(
        dense=DenseScores(pixel_f=dense.pixel_f, nucleus_f=dense.nucleus_f),
        cascade=_scored(result.chosen),
        trials=len(result.trials),
        front=[_scored(trial) for trial in pareto_front(result.trials)],
    )
    return ThresholdsRecord(
        thresholds=Thresholds(**result.chosen.thresholds.dump()),
        dense_cut=dense.thresholds.cut,
        rule=result.rule,
        validation=validation,
        parting=parting,
    )


def _scored(trial: Trial) -> ScoredThresholds:
    return ScoredThresholds(
        thresholds=Thresholds(**trial.thresholds.dump()),
        method=trial.method,
        pixel_f=trial.pixel_f,
        nucleus_f=trial.nucleus_f,
        evaluated=trial.evaluated,
        computed=trial.computed,
        multiply_adds=trial.multiply_adds,
        cost=trial.cost,
        saved=1 - trial.evaluated,
    )
