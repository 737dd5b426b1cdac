"""Evaluation of risks: concordance with survival times, and the survival of groups of low and high risk."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.stats import CensoredData, ecdf, logrank

from histomake.base.records.metrics import RiskGroup, RiskGroups
from histomake.evaluate.items import Items, number_truth
from histomake.evaluate.metrics import Values
from histomake.target.survival import ordered_pairs
from histomake.target.targets import EVENT, TIME

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.evaluate.result import Evaluation

GROUPS = ("low risk", "high risk")
"""Names of the groups in figures, in the order of their numbers."""


def survival_truth(table: pa.Table, _outputs: Sequence[str]) -> NDArray[np.float64]:
    """Times and events of a prediction table, float64 (n, 2) or NaN."""
    return number_truth(table, (TIME, EVENT))


def survival_metrics(level: str, items: Items, names: Sequence[str], weights: np.ndarray) -> Values:
    """Harrell's C-index. Only risks of the same model are compared: those of two models differ by any constant."""
    comparable, concordant = np.zeros(len(weights)), np.zeros(len(weights))
    for fold in np.unique(items.fold):
        mine = items.fold == fold
        time, event = items.target[mine].T
        found = ordered_pairs(items.score[mine, 0], time, event, weights[:, items.patient[mine]])
        comparable += found[0]
        concordant += found[1]
    return {("", "c_index"): concordant / comparable}


def risk_groups(items: Items) -> RiskGroups:
    """Survival of the items of low and of high risk, and the log-rank test between them."""
    low, high = (_group(items, number) for number in range(len(GROUPS)))
    reason = _why_not_tested(items)
    p = None if reason else float(logrank(*(_censored(items, number) for number in range(len(GROUPS)))).pvalue)
    return RiskGroups(low=low, high=high, log_rank_p=p, undefined=reason)


def _why_not_tested(items: Items) -> str | None:
    """Why the log-rank test is not defined, or None."""
    (time, event), group = items.target.T, items.predicted
    if len(np.unique(group)) < len(GROUPS):
        return f"all have {GROUPS[int(group[0])]}, so that there is one group"
    if not event.any():
        return "no event was observed"
    if len(np.unique(items.patient)) < len(items):
        return "slides of one patient are not independent, as the test supposes"
    # Events tell the groups apart only while both are at risk, and not all of them have the event at once.
    for moment in np.unique(time[event == 1]):
        at_risk = time >= moment
        if len(np.unique(group[at_risk])) == len(GROUPS) and ((time == moment) & (event == 1)).sum() < at_risk.sum():
            return None
    return "no event was observed while patients of both groups were at risk"


def _censored(items: Items, number: int) -> CensoredData:
    time, event = items.target[items.predicted == number].T
    return CensoredData(uncensored=time[event == 1], right=time[event == 0])


def _group(items: Items, number: int) -> RiskGroup:
    time, event = items.target[items.predicted == number].T
    curve = _curve(items, number)
    reached = curve.time[curve.survival <= 0.5]
    middle = float(reached.iloc[0]) if len(reached) else None
    return RiskGroup(count=len(time), events=int(event.sum()), median_time=middle)


def kaplan_meier_points(evaluation: Evaluation, level: str) -> pd.DataFrame:
    """Columns group, time, survival with its 95 % interval low and high, at_risk, events and censored, by time.

    Kaplan & Meier 1958; the interval is that of Greenwood 1926 on the scale of log(-log), none where it is not defined.
    """
    items = evaluation.items[level]
    curves = [_curve(items, number).assign(group=name) for number, name in enumerate(GROUPS)]
    return pd.concat([curve for curve in curves if len(curve)], ignore_index=True)


def _curve(items: Items, number: int) -> pd.DataFrame:
    time, event = items.target[items.predicted == number].T
    columns = ("time", "survival", "low", "high", "at_risk", "events", "censored")
    if not len(time):
        return pd.DataFrame(columns=columns, dtype=float)
    found = ecdf(_censored(items, number)).sf
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Where everyone or no one is left without the event, the interval is not defined: it is NaN, and not drawn.
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = found.confidence_interval(method="log-log")
    moments = found.quantiles
    at_risk = [(time >= moment).sum() for moment in moments]
    events, censored = ([((time == moment) & (event == what)).sum() for moment in moments] for what in (1, 0))
    rows = [moments, found.probabilities, interval.low.probabilities, interval.high.probabilities]
    start = pd.DataFrame([[0.0, 1.0, 1.0, 1.0, len(time), 0, 0]], columns=columns)
    rest = pd.DataFrame(dict(zip(columns, [*rows, at_risk, events, censored], strict=True)))
    return pd.concat([start, rest], ignore_index=True)
