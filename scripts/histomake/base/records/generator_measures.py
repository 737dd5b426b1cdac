"""Measures of a generator on held-out patients."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from histomake.base.records.record import Count, Part, Quarantined, Record, Size


class ScaleDistance(Part, frozen=True, kw_only=True):
    """Sliced Wasserstein distance at one scale, times 1000."""

    edge: Size
    """Edge of the images at this scale in pixels."""
    made: float
    """Of samples from held-out fields."""
    real: float
    """Of training fields from held-out ones, for comparison."""


class FeatureDistances(Part, frozen=True, kw_only=True):
    """Distances by features from held-out fields."""

    kid: float
    """Kernel distance."""
    kid_interval: tuple[float, float] | None
    """Its interval of 95 %; fields are drawn by slide. Null if the held-out fields are of one slide."""
    fid: float
    """Fréchet distance, of equal numbers of images; it grows as there are fewer."""
    precision: float
    """Share of the images that lie among held-out fields."""
    recall: float
    """Share of the held-out fields that lie among the images."""


class Memorisation(Part, frozen=True, kw_only=True):
    """Distances to the nearest training field."""

    space: str
    """What distances are of: ``pixels``, or an encoder."""
    made: float
    """Median distance of samples."""
    held_out: float
    """Median distance of held-out fields."""
    copies: float
    """Share of samples that are nearer to one training field, compared with its neighbours, than all but 1 % of the \
held-out fields: expected is 0.01."""
    flagged: bool
    """Whether training fields were memorised: more than 0.05 of the samples are copies."""


class GeneratorMeasures(Record, frozen=True, kw_only=True):
    """How samples of a generator compare with fields of held-out patients."""

    NAME: ClassVar[str] = "measures of a generator"

    generator: str
    """Name of the generator."""
    weights_sha256: str | None
    """sha256 of its weights."""
    images: tuple[Count, Count, Count]
    """Number of samples, of training fields and of held-out fields that were compared."""
    slides: tuple[list[str], list[str]]
    """Training slides and held-out slides, sorted."""
    encoder: str | None
    """Encoder of features; null: none."""
    scales: list[ScaleDistance]
    """Sliced Wasserstein distances, finest scale first."""
    made: FeatureDistances | None
    """Of samples; null without an encoder."""
    real: FeatureDistances | None
    """Of training fields, for comparison; null without an encoder."""
    memorisation: Memorisation
    """Whether samples are copies of training fields."""
    flags: list[str]
    """What must be known before samples are used."""
    left_out: list[Quarantined] = msgspec.field(default_factory=list)
    """Slides that turned out to be damaged."""
