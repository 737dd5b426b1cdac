"""The record of the artefacts on a slide."""

from __future__ import annotations

from typing import ClassVar

from histomake.base.records.record import PositiveMpp, StageRecord


class QualityRecord(StageRecord, frozen=True, kw_only=True):
    """Artefacts on a slide's tissue. Their map is next to it as ``{slide}.png``: 0 none, 1 pen, 2 blur, 3 fold."""

    NAME: ClassVar[str] = "quality record"

    mpp: PositiveMpp
    """Resolution of the map, in µm per pixel: that of the tissue mask."""
    sharpness: float | None
    """Median over the tissue of the ratio of fine to coarse edge energy; null where the slide is too coarse for it."""
    shares: dict[str, float]
    """Share of tissue and ink under each artefact (``pen``, ``blur``, ``fold``), 0 to 1."""
    clean_share: float
    """Share of tissue and ink under no artefact."""
