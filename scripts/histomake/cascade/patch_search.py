"""Choice of the thresholds of a patch cascade on validation patients, as a Pareto front of cost and AUROC.

Dense predictions of all stages exist for the validation slides. `run_stages`, which is also the deployed cascade, is
run on them with many thresholds. The search is that of nuclei (`histomake.cascade.threshold_search`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from histomake.base.errors import HistomakeError
from histomake.base.records.cascade_thresholds import Rule, SearchMethod
from histomake.base.records.patch_thresholds import PatchThresholdsRecord, TriedThresholds
from histomake.cascade.patch_cascade import Decided, dense_pixels, pixels_read, run_stages
from histomake.cascade.stage_scores import DenseSlide
from histomake.cascade.threshold_search import choose, pareto_front, search
from histomake.config import Cascade, StageThresholds

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PatchTrial:
    """Result of one set of thresholds over all validation slides.

    f: AUROC of the class. cost: pixels read as a share of those of the finest stage alone, which include those of
    coarse stages, so that it is the work as well.
    """

    f: float
    cost: float
    thresholds: StageThresholds
    method: SearchMethod

    @property
    def work(self) -> float:
        """The same as the cost."""
        return self.cost

    @property
    def values(self) -> list[float]:
        """The thresholds in the order of `PatchSimulator.trial`. The first has no meaning for patches."""
        pairs = zip(reversed(self.thresholds.upper), reversed(self.thresholds.lower), strict=True)
        return [0.0, *(value for pair in pairs for value in pair)]

    def loss(self, dense: PatchTrial) -> float:
        """Return the AUROC lost."""
        return dense.f - self.f


@dataclass(frozen=True)
class PatchSearchResult:
    """The chosen thresholds, the finest stage alone, the rule that decided, and all trials."""

    chosen: PatchTrial
    dense: PatchTrial
    rule: Rule
    trials: list[PatchTrial]

    def table(self) -> pd.DataFrame:
        """Return one row per trial: AUROC, cost, thresholds, whether it is on the Pareto front and was chosen."""
        front = {id(t) for t in pareto_front(self.trials)}
        rows = []
        for trial in self.trials:
            row: dict[str, object] = {"method": trial.method, "f": trial.f, "cost": trial.cost}
            pairs = zip(trial.thresholds.lower, trial.thresholds.upper, strict=True)
            for stage, (lower, upper) in enumerate(pairs, start=1):
                row |= {f"lower{stage}": lower, f"upper{stage}": upper}
            rows.append(row | {"on_front": id(trial) in front, "chosen": trial is self.chosen})
        columns = ["method", "f", "cost", "on_front", "chosen"]
        table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
        return table.sort_values(["cost", "f"], ignore_index=True)


@dataclass
class PatchSimulator:
    """Runs thresholds on stored scores of validation slides, with a cache of previous results."""

    slides: Sequence[DenseSlide]
    _known: dict[tuple[float, ...], PatchTrial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise HistomakeError if the finest patches of known truth are not of both kinds."""
        self._truth = np.concatenate([np.zeros(0, bool), *(slide.positive[slide.known] for slide in self.slides)])
        if not _both_kinds(self.slides):
            lacking = "with" if not self._truth.any() else "without"
            raise HistomakeError(
                "thresholds cannot be chosen: no finest patch of known truth "
                f"{lacking} the class on the validation slides {', '.join(s.slide_id for s in self.slides)}; annotate "
                "or add validation patients, or set thresholds"
            )
        self._dense = sum(dense_pixels(slide.stages) for slide in self.slides)

    @property
    def depth(self) -> int:
        """Number of stages."""
        return len(self.slides[0].stages)

    def trial(self, values: Sequence[float], *, levels: int, method: SearchMethod) -> PatchTrial:
        """Score thresholds, in the order (no meaning), upper 2, lower 2, upper 3, … with level 1 the finest stage."""
        used = tuple(map(float, values[: 2 * levels - 1]))
        if used not in self._known:
            upper, lower = used[1::2], used[2::2]
            # With crossed thresholds nothing is computed, which equal ones do as well.
            thresholds = StageThresholds(
                lower=[min(pair) for pair in zip(lower, upper, strict=True)][::-1], upper=list(upper)[::-1]
            )
            self._known[used] = self._simulate(thresholds, method)
        return self._known[used]

    def of(self, thresholds: StageThresholds, method: SearchMethod) -> PatchTrial:
        """Score thresholds of the configuration."""
        return self._simulate(thresholds, method)

    def _simulate(self, thresholds: StageThresholds, method: SearchMethod) -> PatchTrial:
        decided = [run_stages(slide.stages, slide.answers, thresholds) for slide in self.slides]
        read = sum(pixels_read(slide.stages, each) for slide, each in zip(self.slides, decided, strict=True))
        scores = np.concatenate([_known(slide, each) for slide, each in zip(self.slides, decided, strict=True)])
        return PatchTrial(float(roc_auc_score(self._truth, scores)), read / self._dense, thresholds, method)

    def candidates(self, number: int) -> list[NDArray[np.float64]]:
        """Return values to try of each threshold: half of them uniform in [0, 1], half at quantiles of the scores."""
        even = np.linspace(0, 1, max(2, number - number // 2))
        quantiles = np.linspace(0, 1, number // 2 + 2)[1:-1]
        found = [np.zeros(1)]
        for stage in range(self.depth - 2, -1, -1):
            spread = np.quantile(np.concatenate([slide.answers.scores[stage] for slide in self.slides]), quantiles)
            found += [np.unique(np.round(np.concatenate([even, spread]), 4))] * 2
        return found


def _known(slide: DenseSlide, decided: Sequence[Decided]) -> NDArray[np.float32]:
    return decided[-1].score[slide.known]


def _both_kinds(slides: Sequence[DenseSlide]) -> bool:
    """Whether finest patches of known truth have the class, and others do not."""
    truth = [slide.positive[slide.known] for slide in slides]
    return any(each.any() for each in truth) and not all(each.all() for each in truth)


def find_stage_thresholds(slides: Sequence[DenseSlide], config: Cascade, *, seed: int) -> PatchSearchResult:
    """Score the thresholds of the configuration on the validation slides, or search some if there are none."""
    if config.thresholds is not None and not _both_kinds(slides):
        log.warning("the given thresholds are not scored: the validation slides have no patches of both kinds")
        unknown = PatchTrial(math.nan, math.nan, config.thresholds, "given")
        return PatchSearchResult(unknown, unknown, "given", [])
    simulator = PatchSimulator(slides)
    dense = simulator.trial([0.0], levels=1, method="coordinate")
    if config.thresholds is not None:
        given = simulator.of(config.thresholds, "given")
        if given.work > 1:
            log.warning("with the given thresholds the cascade reads %.2f times the pixels of the finest", given.work)
        return PatchSearchResult(given, dense, "given", [given])
    trials = search(simulator, simulator.candidates(config.search.candidates), dense, config.search, seed=seed)
    chosen, rule = choose(trials, dense, config.search)
    log.info("dense AUROC %.4f; chosen AUROC %.4f at %.1f %% of the cost", dense.f, chosen.f, 100 * chosen.cost)
    return PatchSearchResult(chosen, dense, rule, [*trials, dense])


def chosen_thresholds(record: PatchThresholdsRecord) -> StageThresholds:
    """Return the chosen thresholds of a record."""
    return StageThresholds(lower=record.chosen.lower, upper=record.chosen.upper)


def thresholds_record(
    result: PatchSearchResult, config: Cascade, *, slides: Sequence[str], left_out: Sequence[str]
) -> PatchThresholdsRecord:
    """Return the chosen thresholds as a record."""
    return PatchThresholdsRecord(
        class_name=config.class_name,
        stages=config.stages,
        rule=result.rule,
        dense_auroc=_defined(result.dense.f),
        chosen=_tried(result.chosen),
        trials=len(result.trials),
        front=[_tried(trial) for trial in pareto_front(result.trials)],
        slides=sorted(slides),
        left_out=sorted(left_out),
    )


def _tried(trial: PatchTrial) -> TriedThresholds:
    return TriedThresholds(
        lower=trial.thresholds.lower,
        upper=trial.thresholds.upper,
        method=trial.method,
        auroc=_defined(trial.f),
        cost=_defined(trial.cost),
    )


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
