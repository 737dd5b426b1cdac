"""Slides that look unlike the others of their cohort: robust z-scores of measures of quality."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

import msgspec
import numpy as np

from histomake.base.records.quality import Appearance, QualityRecord
from histomake.base.records.tissue import TissueRecord

ODD = 3.5
"""A robust z-score from which a value is an outlier (Iglewicz and Hoaglin 1993)."""
FEWEST = 8
"""Fewer values than this have no z-score: their median absolute deviation is too uncertain."""
NORMAL = 1.4826
"""Standard deviation of a normal distribution, in its median absolute deviations."""

Values = Mapping[str, float | None]
"""Measures of one slide by name; null where the slide does not have it."""


class Side(Enum):
    """Which values of a measure are odd: low ones, high ones or both."""

    LOW = (-1,)
    HIGH = (1,)
    BOTH = (-1, 1)


class Measure(NamedTuple):
    """How a measure is compared within a cohort."""

    title: str
    unit: str
    side: Side
    least_spread: float
    """The spread of the cohort counts as at least this: smaller differences are not seen or do not matter. Without it,
    every difference would be an outlier where more than half of the slides are equal."""
    ratio: bool = False
    """Whether logarithms to base 10 are compared, so that spread and its least are in powers of ten."""


MEASURES: Mapping[str, Measure] = {
    "glass_brightness": Measure("brightness of glass", "", Side.BOTH, 3.0),
    "glass_colour": Measure("colour of glass", "", Side.HIGH, 2.0),
    "density": Measure("stain strength", "", Side.BOTH, 0.02),
    "hue": Measure("stain hue", "°", Side.BOTH, 3.0),
    "haematoxylin": Measure("haematoxylin", "", Side.BOTH, 0.02),
    "eosin": Measure("eosin", "", Side.BOTH, 0.02),
    "sharpness": Measure("sharpness", "", Side.BOTH, 0.1),
    "blur_share": Measure("share out of focus", "", Side.HIGH, 0.02),
    "fold_share": Measure("share of folds", "", Side.HIGH, 0.01),
    "pen_share": Measure("share under pen", "", Side.HIGH, 0.01),
    "faint_share": Measure("pale area per tissue", "", Side.HIGH, 0.05),
    "tissue_mm2": Measure("area of tissue", " mm²", Side.LOW, 0.1, ratio=True),
}
"""Measures by name, in the order of tables."""


class Deviation(NamedTuple):
    """A measure of a slide beside those of its cohort."""

    slide_id: str
    measure: str
    value: float
    median: float
    """Median of the cohort."""
    spread: float | None
    """Robust standard deviation of the cohort, or the least spread of the measure; null of too few slides."""
    z: float | None
    """Distance to the median, in spreads; null of too few slides."""
    oddness: float | None
    """The distance if it is on a side that is odd, else 0."""

    @property
    def odd(self) -> bool:
        """Whether the value is an outlier."""
        return self.oddness is not None and self.oddness >= ODD


def quality_values(quality: QualityRecord, tissue: TissueRecord) -> dict[str, float | None]:
    """The measures of a slide, by name."""
    look = quality.appearance
    values: dict[str, float | None] = (
        dict.fromkeys(Appearance.__struct_fields__) if look is None else msgspec.structs.asdict(look)
    )
    values["sharpness"] = quality.sharpness
    values |= {f"{name}_share": share for name, share in quality.shares.items()}
    values["faint_share"] = tissue.faint_mm2 / tissue.area_mm2 if tissue.area_mm2 else None
    return values | {"tissue_mm2": tissue.area_mm2}


def deviations(slides: Mapping[str, Values]) -> list[Deviation]:
    """Compare each measure of each slide with the cohort, in the order of `MEASURES` and of the slides.

    The cohort is described by median and median absolute deviation, which a few odd slides do not change.
    """
    return [found for name in MEASURES for found in _of_measure(name, slides)]


def _of_measure(name: str, slides: Mapping[str, Values]) -> list[Deviation]:
    measure = MEASURES[name]
    known = {slide: float(value) for slide, values in slides.items() if (value := values.get(name)) is not None}
    if measure.ratio:
        known = {slide: value for slide, value in known.items() if value > 0}
    if not known:
        return []
    values = np.array(list(known.values()))
    compared = np.log10(values) if measure.ratio else values
    median = float(np.median(compared))
    centre = 10**median if measure.ratio else median
    if len(values) < FEWEST:
        return [Deviation(slide, name, value, centre, None, None, None) for slide, value in known.items()]
    spread = max(NORMAL * float(np.median(np.abs(compared - median))), measure.least_spread)
    z = (compared - median) / spread
    oddness = np.max([z * sign for sign in measure.side.value] + [np.zeros(len(z))], axis=0)
    found = zip(known.items(), z.tolist(), oddness.tolist(), strict=True)
    return [Deviation(slide, name, value, centre, spread, *scores) for (slide, value), *scores in found]
