"""The record of a patch cascade's metrics."""

from __future__ import annotations

from typing import ClassVar

from histomake.base.records.metrics import MetricValue
from histomake.base.records.patch_cascade import StageCost
from histomake.base.records.record import Count, Part, PositiveMpp, Record


class ComparedPatches(Part, frozen=True, kw_only=True):
    """A cascade and the finest stage alone on one test slide."""

    slide_id: str
    """Slide."""
    patient_id: str
    """Patient."""
    fold: Count
    """Fold whose models predicted the slide."""
    patches: Count
    """Number of patches of the finest grid."""
    tissue: float
    """Share of the cells of the finest grid that are usable patches."""
    positive: Count
    """Number of finest patches that have the class."""
    auroc_dense: float | None
    """AUROC of the finest stage alone; null if the slide has patches of one kind only."""
    auroc_cascade: float | None
    """AUROC of the cascade."""
    stages: list[StageCost]
    """What every used stage computed, coarsest first."""
    saved: float
    """Share of pixels that were not read."""
    seconds_dense: float
    """Time of the finest stage alone, with opening the slide, reading and scoring."""
    seconds_cascade: float
    """The same of the cascade, with the reading of low resolution."""
    peak_memory_mb: float
    """Largest main memory of the process so far, in MiB."""
    gpu_seconds: float
    """Time in which the cascade occupied a GPU."""
    simulated_identical: bool
    """Whether the cascade on stored scores, as in the search, decides every patch as the deployed one did."""
    simulated_difference: float
    """Largest difference of their scores."""


class ComparedMetric(Part, frozen=True, kw_only=True):
    """A metric of the patches of all test slides, with intervals by paired resampling of patients."""

    dense: MetricValue
    """Of the finest stage alone."""
    cascade: MetricValue
    """Of the cascade."""
    lost: MetricValue
    """Dense minus cascade."""


class StageTotal(Part, frozen=True, kw_only=True):
    """What a stage computed on all test slides."""

    task: str
    """Task of the stage."""
    mpp: PositiveMpp
    """Resolution, in µm per pixel."""
    patches: Count
    """Usable patches of the grid."""
    computed: Count
    """Patches that were scored."""
    pixels: Count
    """Pixels that were read."""
    seconds: float
    """Time to decide, read and score."""


class FrontPoint(Part, frozen=True, kw_only=True):
    """Thresholds of the front found on validation slides, on the test slides."""

    lower: list[float]
    """Lower thresholds, coarsest stage first."""
    upper: list[float]
    """Upper thresholds."""
    cost: float
    """Pixels read, as a share of those of the finest stage alone."""
    seconds: float | None
    """Time: what every stage computes, by its measured time per patch; null if a stage that it uses was never run."""
    auroc: float | None
    """AUROC of the patches."""
    chosen: bool
    """Whether these are the deployed thresholds."""


MANY_WITHOUT_COARSER = 0.1
"""Share of patches without a coarser one from which on it is remarked."""


class PatchCascadeMetrics(Record, frozen=True, kw_only=True):
    """Comparison of a patch cascade with its finest stage alone on test slides."""

    NAME: ClassVar[str] = "metrics of a patch cascade"

    class_name: str
    """The target class."""
    patients: Count
    """Number of patients of the test slides."""
    metrics: dict[str, ComparedMetric]
    """AUROC and average precision of the patches of known truth; none if they are of one kind only."""
    stages: list[StageTotal]
    """Sums over slides, coarsest stage first."""
    saved: float
    """Share of pixels that were not read, over all slides."""
    seconds_dense: float
    """Sum over slides of the finest stage alone."""
    seconds_cascade: float
    """Sum over slides of the cascade."""
    gpu_seconds: float
    """Sum over slides of the time in which the cascade occupied a GPU."""
    peak_memory_mb: float
    """Largest main memory of the process, in MiB."""
    break_even: float | None
    """Share of the finest patches that, if computed, makes the cascade as slow as the finest stage alone; null if the \
time of a stage was not measured."""
    simulated_identical: bool
    """Whether simulated and deployed decisions are identical on all slides."""
    slides: list[ComparedPatches]
    """Comparison on every test slide."""
    front: list[FrontPoint]
    """Front of one fold on its test slides, cheapest first."""
    left_out: list[str]
    """Test slides without a usable patch, or in quarantine."""

    without_coarser: float = 0.0
    """Share of the finest patches that no usable coarser patch contains, so that they are always computed."""

    @property
    def remark(self) -> str | None:
        """What readers of the results should know, if anything."""
        found = []
        if self.seconds_cascade > self.seconds_dense:
            found.append(
                f"The cascade is slower than its finest stage alone: {self.seconds_cascade:.3g} s instead of "
                f"{self.seconds_dense:.3g} s on the test slides. Use the finest stage alone, or a cheaper coarse stage."
            )
        if self.without_coarser > MANY_WITHOUT_COARSER:
            found.append(
                f"{self.without_coarser:.0%} of the finest patches are always computed, because no usable coarser "
                "patch contains them, as at the border of tissue. Lower min_tissue of the coarser grid."
            )
        return " ".join(found) or None
