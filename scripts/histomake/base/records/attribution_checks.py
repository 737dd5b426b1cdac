"""The record of the checks of attribution maps."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from histomake.base.records.record import Count, Part, Quarantined, Record

Method = Literal["gradient", "partition"]
"""How SHAP estimates attributions."""


class RandomisedWeights(Part, frozen=True, kw_only=True):
    """Mean rank correlation with maps of the same model with random weights; null where all maps are constant."""

    repeat: float | None
    """Correlation of two runs with the trained weights: the highest value to expect."""
    random: float | None
    """Correlation with random weights. Near ``repeat``, the maps show the image and not the model."""
    patches: Count
    """Number of patches that were compared."""


class AttributionChecks(Record, frozen=True, kw_only=True):
    """Checks of a model's attribution maps. ``patches.parquet`` next to it has them by patch.

    Figures are null where no patch could be explained.
    """

    NAME: ClassVar[str] = "attribution checks"

    patches: Count
    """Number of explained patches."""
    background: Count
    """Number of background patches."""
    method: Method
    """Method of SHAP."""
    additivity_error: float | None
    """Median of the relative difference between the sum of a map and the value that it explains."""
    deletion: float | None
    """Median area under the class margin while the most important squares are blurred first."""
    random_deletion: float | None
    """The same in random order."""
    insertion: float | None
    """Median area under the class margin while the most important squares are uncovered first."""
    random_insertion: float | None
    """The same in random order."""
    deletion_better: float | None
    """Share of patches where ``deletion`` is smaller than in random order."""
    insertion_better: float | None
    """Share of patches where ``insertion`` is larger than in random order."""
    randomised_weights: RandomisedWeights
    """Comparison with a model with random weights."""
    left_out: list[Quarantined] = msgspec.field(default_factory=list)
    """Slides whose patches could not be read."""
