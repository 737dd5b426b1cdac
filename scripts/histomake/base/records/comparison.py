"""The record of a comparison of two tasks."""

from __future__ import annotations

from typing import ClassVar

from histomake.base.kinds import Kind
from histomake.base.records.metrics import MetricValue
from histomake.base.records.record import Count, Part, Record


class MetricDifference(Part, frozen=True, kw_only=True):
    """A metric of two tasks on the same items, and their difference: first minus second."""

    first: float | None
    """Value of the first task; null where undefined."""
    second: float | None
    """Value of the second task; null where undefined."""
    difference: MetricValue
    """First minus second, with its interval by paired resampling of patients."""
    p_bootstrap: float | None
    """Two-sided p of the hypothesis of no difference, from the bootstrap samples."""
    p_delong: float | None = None
    """The same from DeLong's test; only of AUROC at the level ``patient``, whose items are independent."""


class ComparedLevel(Part, frozen=True, kw_only=True):
    """A comparison at one level."""

    count: Count
    """Number of items that both tasks have predicted and whose truth is known."""
    metrics: dict[str, dict[str, MetricDifference]]
    """Differences by metric, for every class and, under ``all``, over all classes."""


class ComparisonRecord(Record, frozen=True, kw_only=True):
    """Two tasks on the test slides that they have in common."""

    NAME: ClassVar[str] = "comparison record"

    first: str
    """First task."""
    second: str
    """Second task."""
    kind: Kind
    """Kind of both tasks."""
    seed: int
    """Seed of the bootstrap."""
    bootstraps: Count
    """Number of bootstrap samples of patients."""
    interval_percent: tuple[float, float]
    """Percentiles of the bootstrap samples that are the ends of the intervals."""
    slides: Count
    """Number of test slides that both tasks have predicted."""
    patients: Count
    """Number of their patients."""
    left_out: list[str]
    """Test slides of one of the tasks alone, or without patches in one of them."""
    levels: dict[str, ComparedLevel]
    """Differences by level: ``slide`` and ``patient``."""
