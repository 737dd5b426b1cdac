"""The record of a comparison of two tasks."""

from __future__ import annotations

from typing import ClassVar

from histomake.base.kinds import Kind
from histomake.base.records.metrics import ComparedLevel
from histomake.base.records.record import Count, Record


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
