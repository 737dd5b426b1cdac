"""The record of a slide's tissue mask."""

from __future__ import annotations

from typing import ClassVar, Literal

from histomake.base.records.record import Count, Positive, PositiveMpp, StageRecord

FIELD_OF_VIEW = "field of view"
"""Method: the image is small and shows no glass, so all of it is tissue."""


class TissueRecord(StageRecord, frozen=True, kw_only=True):
    """Where a slide has tissue. The mask is next to it as ``{slide}.png``, 1 bit per pixel."""

    NAME: ClassVar[str] = "tissue record"

    mpp: PositiveMpp
    """Resolution of the mask, in µm per pixel."""
    downsample_x: Positive
    """Width of a mask pixel, in level-0 pixels."""
    downsample_y: Positive
    """Height of a mask pixel, in level-0 pixels."""
    mode: Literal["brightfield", "fluorescence"]
    """Illumination of the slide."""
    method: str
    """How tissue was found: ``{channel}, otsu``; ``{channel}, fixed``; ``model``; ``field of view`` for a small image \
without glass, which is all tissue; or ``whole`` if the configuration takes everything as tissue."""
    threshold: float | None
    """Threshold on the channel, 0 to 255; null without one."""
    area_mm2: float
    """Area of the tissue, in mm²."""
    coverage: float
    """Share of the slide that is tissue, 0 to 1."""
    components: Count
    """Number of connected pieces of tissue."""
    ink_mm2: float
    """Area of pen marks, which are not tissue, in mm²."""
    faint_mm2: float = 0.0
    """Area that is coloured more than glass, but too pale to be taken as tissue, in mm²; 0 where it is not looked \
for: without ``otsu``, and in fluorescence."""
