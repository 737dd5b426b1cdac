"""The record of a patch cascade's thresholds."""

from __future__ import annotations

from typing import ClassVar

from histomake.base.records.cascade_thresholds import Rule, SearchMethod
from histomake.base.records.record import Count, Part, Record

DENSE = (
    "The finest stage is used alone and no cascade: on the validation slides, no thresholds within search.max_loss "
    "read fewer pixels."
)
"""What the rule ``dense`` means for the results."""


class TriedThresholds(Part, frozen=True, kw_only=True):
    """Thresholds of the used stages but the finest, coarsest first, and what they give on the validation slides."""

    lower: list[float]
    """Patches of the next finer stage are computed where the score of the stage is at least this."""
    upper: list[float]
    """Patches are accepted where the score of the stage is at least this."""
    method: SearchMethod
    """How they were found: one after the other, all jointly, or in the configuration."""
    auroc: float | None
    """AUROC of the class over all finest patches of known truth; null for given thresholds that could not be scored."""
    cost: float | None
    """Pixels that all stages read, as a share of those that the finest stage alone reads."""


class PatchThresholdsRecord(Record, frozen=True, kw_only=True):
    """Thresholds of a patch cascade in one fold, and how they were chosen on validation patients."""

    NAME: ClassVar[str] = "thresholds of a patch cascade"

    class_name: str
    """The target class."""
    stages: list[str]
    """Tasks of the stages, coarsest first."""
    rule: Rule
    """Why these were chosen: they are the cheapest within ``max_loss``; the best that save ``min_saving``; the \
cheapest, because none saves that; those of the finest stage alone, because none costs less; or given ones."""
    dense_auroc: float | None
    """AUROC of the finest stage alone on the validation slides; null as that of ``chosen``."""
    chosen: TriedThresholds
    """The chosen thresholds; none if the finest stage is used alone."""
    trials: Count
    """Number of thresholds that were tried."""
    front: list[TriedThresholds]
    """Pareto front of cost and AUROC, cheapest first."""
    slides: list[str]
    """Validation slides, sorted."""
    left_out: list[str]
    """Validation slides without a usable patch, or in quarantine, sorted."""

    @property
    def remark(self) -> str | None:
        """What readers of the results should know about the choice, if anything."""
        return DENSE if self.rule == "dense" else None
