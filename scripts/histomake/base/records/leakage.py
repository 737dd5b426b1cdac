"""The record of the leakage check."""

from __future__ import annotations

from typing import ClassVar

from histomake.base.records.record import Record


class LeakageRecord(Record, frozen=True, kw_only=True):
    """Result of the check that no slide or patient has two roles in a fold, and no model was made with a test slide."""

    NAME: ClassVar[str] = "leakage record"

    slides: list[str]
    """Slides that were compared by the sha256 of their files, sorted."""
    models: list[str]
    """Cards of models trained elsewhere whose ``made_with`` was compared with the test slides."""
    leaks: list[str]
    """Leaks that were found. Always empty, because a leak stops the workflow."""
