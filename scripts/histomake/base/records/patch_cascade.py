"""The record of a patch cascade on a slide."""

from __future__ import annotations

from typing import ClassVar

from histomake.base.records.record import Count, Part, PositiveMpp, Size, StageRecord


class StageCost(Part, frozen=True, kw_only=True):
    """What a stage of a patch cascade computed."""

    mpp: PositiveMpp
    """Resolution of the patches, in µm per pixel."""
    patches: Count
    """Number of usable patches of the grid."""
    computed: Count
    """Number of patches that the model scored; the others inherit the score of a coarser patch."""
    pixels: Size
    """Number of pixels of a patch."""
    seconds: float | None = None
    """Time to decide, to read the patches and to score them. Version 0.1 did not measure it."""


class PatchCascadeRecord(StageRecord, frozen=True, kw_only=True):
    """What a cascade of classifiers did on a slide. Its predictions are stored next to it in ``{slide}.parquet``."""

    NAME: ClassVar[str] = "patch cascade record"

    stages: list[StageCost]
    """What every used stage computed, coarsest first; none if no patch of the slide is usable."""
    saved: float
    """Share of pixels that were not read, against the finest stage alone; negative if more were read."""
    seconds: float | None = None
    """Time of the whole slide, with opening it and its patch tables, without loading the models."""
    peak_memory_mb: float | None = None
    """Largest main memory of the process that scored, in MiB."""
    gpu_seconds: float | None = None
    """Time in which a GPU was occupied: that of all stages, or 0 without a GPU."""
