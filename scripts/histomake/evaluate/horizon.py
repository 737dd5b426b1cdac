"""Evaluation of risks at one time: who has had the event by then, and how many were predicted to.

Censored patients are accounted for by the Kaplan-Meier estimate, of events or of censoring.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.stats import CensoredData, ecdf

from histomake.base.records.metrics import AtHorizon, CalibrationGroup
from histomake.base.records.model_card import SurvivalCard
from histomake.evaluate import statistics
from histomake.evaluate.items import Items
from histomake.evaluate.metrics import Values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.evaluate.result import Evaluation

GROUPS = 5
"""Groups of equal size by predicted share in which calibration is shown."""
LEAST_GROUP = 5
"""Smallest size of such a group."""


@dataclass(frozen=True)
class Horizon:
    """A time at which predictions of survival are evaluated; ``cards``: what risks of the models mean, by fold."""

    time: float
    cards: Mapping[int, SurvivalCard]

    @classmethod
    def of(cls, given: float | None, cards: Mapping[int, SurvivalCard | None]) -> Horizon | None:
        """The time as configured, or the median over the models of the median time of their training events.

        None if the models do not say what their risks mean, as those of other tasks.
        """
        known = {fold: card for fold, card in cards.items() if card is not None}
        if len(known) < len(cards):
            return None
        middle = np.median([card.median_event_time for card in known.values()])
        return cls(float(middle) if given is None else given, known)

    def metrics(self, items: Items, weights: NDArray[np.float64], *, calibrated: bool) -> Values:
        """Metrics of items, for every weighting of patients (samples, patients); see `auc`.

        With ``calibrated``, also the mean predicted share without the event minus the observed one.
        """
        found = {("", "auc_at_horizon"): auc(items, weights, self.time)}
        predicted, (time, event) = self._shares(items), items.target.T
        if calibrated and not np.isnan(predicted).any() and not _not_observed(time, event, self.time):
            each = weights[:, items.patient]
            observed = kaplan_meier(time, event, each, self.time)
            found["", "calibration_at_horizon"] = (each @ predicted) / each.sum(1) - observed
        return found

    def record(self, items: Items) -> AtHorizon:
        """Predicted and observed shares in groups of rising predictions, or why there are none."""
        predicted, (time, event) = self._shares(items), items.target.T
        no_auc, no_calibration = _no_auc(time, event, self.time), _not_observed(time, event, self.time)
        if np.isnan(predicted).any():
            no_calibration = "the time lies after the last event of the training"
        if no_calibration:
            return AtHorizon(time=self.time, no_auc=no_auc, no_calibration=no_calibration)
        count = min(GROUPS, max(len(items) // LEAST_GROUP, 1))
        parts = np.array_split(np.argsort(predicted, kind="stable"), count)
        groups = [_group(time[part], event[part], predicted[part], self.time) for part in parts]
        return AtHorizon(time=self.time, no_auc=no_auc, groups=[group for group in groups if group is not None])

    def _shares(self, items: Items) -> NDArray[np.float64]:
        """Predicted probability (n,) not to have had the event by then; NaN where it lies after a model's last time."""
        found = np.full(len(items), np.nan)
        for fold in np.unique(items.fold):
            card, mine = self.cards[int(fold)], items.fold == fold
            if self.time <= card.times[-1]:
                hazard = np.interp(self.time, [0.0, *card.times], [0.0, *card.cumulative_hazard])
                with np.errstate(over="ignore"):
                    found[mine] = np.exp(-hazard * np.exp(items.score[mine, 0]))
        return found


def auc(items: Items, weights: NDArray[np.float64], horizon: float) -> NDArray[np.float64]:
    """AUC at a time, (samples,), for every weighting of patients (samples, patients); NaN where it is not defined.

    Those who had the event by then against those who were still without it (cumulative cases, dynamic controls).
    Censored cases are made up for by weighting the others with the inverse probability of being observed (Uno et al.
    2007), which is that of the data in every sample. Only risks of the same model are compared.
    """
    time, event = items.target.T
    case, control = (time <= horizon) & (event == 1), time > horizon
    weight = np.where(case, 1 / np.maximum(_still_observed(time, event), np.finfo(float).tiny), 1.0)
    pairs = concordant = np.zeros(len(weights))
    for fold in np.unique(items.fold):
        mine = (items.fold == fold) & (case | control)
        if (case & mine).any() and (control & mine).any():
            edges, rank = np.unique(items.score[mine, 0], return_inverse=True)
            counted = weights[:, items.patient[mine]] * weight[mine]
            cases, controls = (_by_rank(counted * chosen[mine], rank, len(edges)) for chosen in (case, control))
            count = cases.sum(1) * controls.sum(1)
            pairs = pairs + count
            with np.errstate(invalid="ignore", divide="ignore"):
                area = statistics.area_under_roc(cases, controls)
            concordant = concordant + np.where(count > 0, count * area, 0.0)
    return np.divide(concordant, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def calibration_points(evaluation: Evaluation, level: str) -> pd.DataFrame | None:
    """Columns predicted, observed, low, high and count by group, and the horizon; None without a horizon."""
    columns = ["predicted", "observed", "low", "high", "count", "horizon"]
    found = evaluation.record.levels[level].at_horizon
    if found is None:
        return None
    rows = [(g.predicted, g.observed, g.low, g.high, g.count, found.time) for g in found.groups]
    return pd.DataFrame(rows, columns=columns).astype(float)


def _no_auc(time: NDArray[np.float64], event: NDArray[np.float64], horizon: float) -> str | None:
    """Why nobody with the event can be compared with anybody without it, or None."""
    if not ((time <= horizon) & (event == 1)).any():
        return "no event was observed until then"
    return None if (time > horizon).any() else "nobody was observed for longer"


def _not_observed(time: NDArray[np.float64], event: NDArray[np.float64], horizon: float) -> str | None:
    """Why the share without the event cannot be estimated, or None."""
    everyone_died = (event[time == time.max()] == 1).all()
    return None if time.max() >= horizon or everyone_died else "nobody was observed for that long"


def _group(
    time: NDArray[np.float64], event: NDArray[np.float64], predicted: NDArray[np.float64], horizon: float
) -> CalibrationGroup | None:
    """One group; None if it was not observed until the horizon."""
    if _not_observed(time, event, horizon):
        return None
    found = ecdf(CensoredData(uncensored=time[event == 1], right=time[event == 0])).sf
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Where everyone or no one is left without the event, the interval is not defined: it is NaN.
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = found.confidence_interval(method="log-log")
    low, high = (float(end.evaluate(horizon)) for end in (interval.low, interval.high))
    return CalibrationGroup(
        count=len(time),
        predicted=float(predicted.mean()),
        observed=float(found.evaluate(horizon)),
        low=low if np.isfinite(low) else None,
        high=high if np.isfinite(high) else None,
    )


def _still_observed(time: NDArray[np.float64], event: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability (n,) to be observed until just before the time of each: Kaplan-Meier of censoring."""
    censored = event == 0
    if not censored.any():
        return np.ones(len(time))
    # Who has the event at a time is no longer at risk of being censored at that time.
    ended = np.nextafter(time[~censored], -np.inf)
    found = ecdf(CensoredData(uncensored=time[censored], right=ended)).sf
    return np.asarray(found.evaluate(np.nextafter(time, -np.inf)), np.float64)


def kaplan_meier(
    time: NDArray[np.float64], event: NDArray[np.float64], weight: NDArray[np.float64], horizon: float
) -> NDArray[np.float64]:
    """Share without the event at the horizon, (samples,), of n patients who count with ``weight`` (samples, n)."""
    moments, rank = np.unique(time, return_inverse=True)
    died = _by_rank(weight * event, rank, len(moments))
    left = _by_rank(weight, rank, len(moments))
    at_risk = np.cumsum(left[:, ::-1], axis=1)[:, ::-1]
    share = np.divide(died, at_risk, out=np.zeros_like(died), where=at_risk > 0)
    return np.prod(1 - share[:, moments <= horizon], axis=1)


def _by_rank(values: NDArray[np.float64], rank: NDArray[np.int64], ranks: int) -> NDArray[np.float64]:
    """Sums (samples, ranks) of values (samples, n) with the same rank."""
    order = np.argsort(rank, kind="stable")
    starts = np.searchsorted(rank[order], np.arange(ranks))
    return np.add.reduceat(values[:, order], starts, axis=1)
