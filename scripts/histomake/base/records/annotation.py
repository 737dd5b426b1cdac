"""The record of a slide's annotation: which file it was read from and what it holds."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from histomake.base.records.consensus import ConsensusRecord
from histomake.base.records.record import Count, Json, Part, Size, SlideSize, StageRecord, Upgrade


def rename_format(content: Json) -> Json:
    """``annotation_format`` is called ``format``."""
    return {**content, "annotation_format": content.get("format")}


class LabelImageRecord(Part, frozen=True, kw_only=True):
    """The Zarr array of class numbers that an annotated mask was converted to: 0 unlabelled, i + 1 the i-th class."""

    store: str
    """Name of the Zarr array next to the record."""
    downsample: Size
    """Edge of one of its pixels, in level-0 pixels."""
    width: Size
    """Width of the array, in its own pixels."""
    height: Size
    """Height of the array, in its own pixels."""


class AnnotationRecord(StageRecord, frozen=True, kw_only=True):
    """What is annotated on a slide. Regions are stored next to it in ``{slide}.geojson``, in level-0 pixels."""

    NAME: ClassVar[str] = "annotation record"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (rename_format,)

    source: str | None
    """Name of the annotation file, or of the files of several readers; null for a slide without annotation."""
    annotation_format: str
    """Format of the file: ``asap``, ``aperio``, ``halo``, ``geojson``, ``qupath``, ``mask.png`` …; ``majority`` or \
``staple`` for a consensus of readers; ``none`` for a slide without annotation."""
    width: SlideSize
    """Width of the slide, in level-0 pixels."""
    height: SlideSize
    """Height of the slide, in level-0 pixels."""
    class_names: tuple[str, ...]
    """All annotation classes of the configuration, sorted."""
    roi: tuple[str, ...] = ()
    """Classes that only bound regions of interest: grids name them under ``roi``, and no task learns them."""
    label_image: LabelImageRecord | None = None
    """The label image, if the annotation is a mask or a consensus of readers."""
    consensus: ConsensusRecord | None = None
    """The readers and their agreement, if there are several."""
    regions: dict[str, Count] = msgspec.field(default_factory=dict)
    """Number of regions of each class that has any."""
    area_px: dict[str, float] = msgspec.field(default_factory=dict)
    """Annotated area of each class that has any, in square level-0 pixels. An overlap counts for the smaller region."""
    ignored: dict[str, Count] = msgspec.field(default_factory=dict)
    """Regions, or mask pixels, under names that ``annotations.ignore`` lists, by name."""
    cut_out: dict[str, Count] = msgspec.field(default_factory=dict)
    """Regions, or mask pixels, under names that ``annotations.cut_out`` lists, by name."""
    cut_away: Count = 0
    """Regions of which nothing was left after the cut."""
    skipped: dict[str, Count] = msgspec.field(default_factory=dict)
    """Shapes without an area, by the file's name for the kind of shape."""
    clipped: Count = 0
    """Regions that were cut at the slide's edge."""
    outside_share: float = 0.0
    """Share of the annotated area that lay outside the slide."""
    repaired: Count = 0
    """Regions with a self-crossing outline, which were made valid."""
    degenerate: Count = 0
    """Regions without an area after repair, which were dropped."""

    @property
    def is_annotated(self) -> bool:
        """Whether the slide was annotated, even if nothing was found."""
        return self.annotation_format != "none"
