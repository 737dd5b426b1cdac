"""Absolute risks: what the risk of a bag means for its chances over time.

The output of survival is the logarithm of a hazard ratio. If H(t) is the cumulative hazard of bags whose risk is 0, the
share without the event at time t of bags of risk r is exp(-H(t) exp(r)).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from histomake.base.records.model_card import SurvivalCard
from histomake.learn.objectives.losses import interval_hazards, interval_outcomes

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_SHARE = 1e-3
"""Smallest and, from 1, largest share with the event of an interval that training starts from."""


class IntervalHazards(nn.Module):
    """The baseline of the loss hazards: ends of the intervals of time, and a trained log hazard for each of them."""

    ends: Tensor

    def __init__(self, intervals: int) -> None:
        super().__init__()
        self.register_buffer("ends", torch.zeros(intervals, dtype=torch.float64))
        self.log_baseline = nn.Parameter(torch.zeros(intervals, dtype=torch.float64))

    @classmethod
    def of(cls, target: NDArray[np.floating], intervals: int) -> IntervalHazards:
        """At most ``intervals`` intervals with equally many events of the times and events ``target`` (n, 2).

        The hazards are those of bags of equal risk.
        """
        time, event = np.asarray(target, np.float64).T
        ends = np.unique(np.quantile(time[event == 1], np.arange(1, intervals + 1) / intervals, method="inverted_cdf"))
        found = cls(len(ends))
        found.ends.copy_(torch.from_numpy(ends))
        survived, failed = interval_outcomes(torch.from_numpy(time), torch.from_numpy(event), found.ends)
        share = (failed.sum(0) / (failed | survived).sum(0)).clamp(LEAST_SHARE, 1 - LEAST_SHARE).double()
        with torch.no_grad():
            found.log_baseline.copy_((-torch.log1p(-share)).log())
        return found

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of risks (n, 1); see `interval_hazards`."""
        return interval_hazards(logits, target, self.ends, self.log_baseline)

    def cumulative(self) -> NDArray[np.float64]:
        """Cumulative hazard of the risk 0 at the ends of the intervals."""
        return self.log_baseline.detach().double().exp().cumsum(0).cpu().numpy()


def cumulative_hazard(risk: NDArray[np.floating], target: NDArray[np.floating]) -> tuple[Any, Any]:
    """Times of the events and the cumulative hazard of the risk 0 at each (Breslow 1972), both float64 (k,).

    ``risk``: (n,), of a Cox model. ``target``: times and events (n, 2).
    """
    time, event = np.asarray(target, np.float64).T
    moments, deaths = np.unique(time[event == 1], return_counts=True)
    shift = float(np.max(risk))
    hazards = np.exp(np.asarray(risk, np.float64) - shift)
    at_risk = np.array([hazards[time >= moment].sum() for moment in moments])
    return moments, np.cumsum(deaths / at_risk) * math.exp(-shift)


def survival_card(
    hazards: IntervalHazards | None, risk: NDArray[np.floating], target: NDArray[np.floating]
) -> SurvivalCard:
    """The cumulative hazard that a model has learned, or that of its training bags (n,) by their risks and survival."""
    time, event = np.asarray(target, np.float64).T
    if hazards is None:
        times, cumulative = cumulative_hazard(risk, target)
    else:
        times, cumulative = hazards.ends.cpu().numpy(), hazards.cumulative()
    return SurvivalCard(
        times=times.tolist(),
        cumulative_hazard=cumulative.tolist(),
        median_event_time=float(np.quantile(time[event == 1], 0.5, method="lower")),
    )
