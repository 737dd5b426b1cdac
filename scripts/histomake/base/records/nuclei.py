"""The record of the nuclei of a slide that a cascade segmented."""

from __future__ import annotations

from typing import ClassVar

from histomake.base.records.cascade_cost import LevelShares, MultiplyAdds
from histomake.base.records.cascade_thresholds import Thresholds
from histomake.base.records.record import Count, Part, StageRecord


class SegmentationSeconds(Part, frozen=True, kw_only=True):
    """Duration of a segmentation, in seconds."""

    cascade: float
    """Of the networks on all levels."""
    total: float
    """Of all work, with finding and writing the nuclei."""


class NucleiRecord(StageRecord, frozen=True, kw_only=True):
    """What a cascade did on a slide. Nuclei are stored next to it in ``{slide}.geojson`` and ``{slide}.zarr``."""

    NAME: ClassVar[str] = "nuclei record"

    store: str
    """Name of the Zarr group next to the record, with labels, probabilities and the states of all levels."""
    thresholds: Thresholds
    """Thresholds that were used."""
    nuclei: Count
    """Number of nuclei found."""
    seconds: SegmentationSeconds
    """Duration of the segmentation."""
    levels: list[LevelShares]
    """What every level did, finest first."""
    pixel_evaluations: Count
    """Number of pixels that a network evaluated, of all levels."""
    saved: float
    """Share of pixel evaluations saved, against the network of level 1 at every pixel."""
    multiply_adds: MultiplyAdds
    """Cost of the cascade, and of naive and dense evaluation of the slide."""
