"""The record of a nucleus cascade's metrics."""

from __future__ import annotations

from typing import ClassVar, Literal

from histomake.base.records.cascade_cost import LevelShares, MultiplyAdds
from histomake.base.records.cascade_thresholds import ThresholdSearch
from histomake.base.records.record import Count, Json, Part, Record, Upgrade


def mark_whole_slides(content: Json) -> Json:
    """Groups are ``whole slides`` and ``images``, whatever the site, and have no field ``whole_slides``."""
    groups = content.get("groups", {})
    marked = {name: group | {"whole_slides": name == "whole slides"} for name, group in groups.items()}
    return content | {"groups": marked}


Way = Literal["dense", "cascade", "otsu"]
"""The network of level 1 everywhere, the cascade, or Otsu's threshold on haematoxylin; all with the same parting."""


class NucleusScores(Part, frozen=True, kw_only=True, omit_defaults=True):
    """Scores of segmented nuclei, 0 to 1. Of a group: means over patients of the means over their annotated slides."""

    f: float
    """RADHicaL's F, mean over annotated nuclei."""
    tpr: float
    """Share of a nucleus that is found, mean over annotated nuclei."""
    ppv: float
    """Share of the objects that overlap a nucleus which lies in it, mean over annotated nuclei."""
    detected: float
    """Share of annotated nuclei more than half of which is found."""
    pixel_f: float
    """F of pixels (Dice)."""
    aji: float
    """Aggregated Jaccard index (Kumar et al. 2017)."""
    pq: float
    """Panoptic quality (Kirillov et al. 2019)."""
    object_f1: float
    """F of objects that match at IoU 0.5."""
    nuclei: float
    """Number of annotated nuclei."""
    found: float
    """Number of found objects."""
    count_error: float | None = None
    """Difference of both numbers as a share of that of annotated nuclei; null in records of earlier versions."""


class CascadeSeconds(Part, frozen=True, kw_only=True):
    """Duration of three ways to evaluate the same pixels, in seconds."""

    naive: float
    """The network of level 1, patch by patch; extrapolated from some pixels."""
    dense: float
    """The network of level 1 on whole blocks."""
    cascade: float
    """The cascade."""


class ComparedSlide(Part, frozen=True, kw_only=True, omit_defaults=True, tag_field="status", tag="ok"):
    """Comparison on one test slide."""

    slide_id: str
    """Slide."""
    patient_id: str | None = None
    """Patient; null in records of earlier versions."""
    site: str | None = None
    """Site of the slide in the sheet."""
    area_mm2: float
    """Area of the slide, in mm²."""
    tissue: float
    """Share of the slide that is tissue."""
    seconds: CascadeSeconds
    """Median duration."""
    naive_pixels: Count
    """Number of pixels on which the naive way was timed."""
    dense_difference: float
    """Largest difference of probabilities between dense and naive evaluation."""
    simulated_identical: bool
    """Whether the cascade on stored maps, as in the search, gives exactly the same mask."""
    saved_in_tissue: float
    """Share of pixel evaluations saved, counting only pixels in tissue."""
    levels: list[LevelShares]
    """What every level did, finest first."""
    pixel_evaluations: Count
    """Number of pixels that a network evaluated, of all levels."""
    saved: float
    """Share of pixel evaluations saved, against the network of level 1 at every pixel."""
    multiply_adds: MultiplyAdds
    """Cost of the three ways."""
    scores: dict[Way, NucleusScores] | None = None
    """Scores by way; missing without annotated nuclei."""


class SlideSaving(Part, frozen=True, kw_only=True):
    """Savings on one slide of a group."""

    slide_id: str
    """Slide."""
    tissue: float
    """Share of the slide that is tissue."""
    saved: float
    """Share of pixel evaluations saved."""
    faster: float
    """Time of dense evaluation divided by that of the cascade."""


class ComparedGroup(Part, frozen=True, kw_only=True):
    """Comparison over the slides of a group."""

    whole_slides: bool
    """Whether the group has whole slides. Otherwise it has images: fields of view, or slides that are mostly tissue."""
    slides: Count
    """Number of slides."""
    each: list[SlideSaving]
    """Savings on every slide."""
    scored: Count
    """Number of slides with annotated nuclei."""
    tissue: float
    """Share of the slides' pixels that is tissue."""
    saved: float
    """Share of pixel evaluations saved, over all slides."""
    saved_in_tissue: float
    """Mean over slides of the share saved in tissue."""
    multiply_adds_vs_naive: float
    """Share of multiply-adds saved against naive evaluation."""
    multiply_adds_vs_dense: float
    """Share of multiply-adds saved against dense evaluation."""
    seconds: CascadeSeconds
    """Sum over slides."""
    dense_difference: float
    """Largest over slides."""
    simulated_identical: bool
    """Whether that holds on all slides."""
    scores: dict[Way, NucleusScores]
    """Mean scores by way, patients weighted equally; empty without annotated nuclei."""
    patients: Count = 0
    """Number of patients with annotated nuclei."""


class Bar(Part, frozen=True, kw_only=True):
    """A value that a cascade should reach on test slides."""

    figure: str
    """Group and figure."""
    value: float
    """Measured value."""
    bar: str
    """Required bound, such as ``>= 0.85``."""
    ok: bool
    """Whether the value meets it."""


class CascadeMetrics(Record, frozen=True, kw_only=True):
    """Comparison of a nucleus cascade with naive and dense evaluation and with Otsu's threshold, on test slides."""

    NAME: ClassVar[str] = "metrics of a cascade"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (mark_whole_slides,)

    groups: dict[str, ComparedGroup]
    """Comparison by group: whole slides and images, separated by site if the sheet has sites."""
    bars: list[Bar]
    """Required figures, with the measured ones."""
    validation: ThresholdSearch
    """Scores on the validation slides, as in ``thresholds.json``."""
    slides: list[ComparedSlide]
    """Comparison on every test slide."""
