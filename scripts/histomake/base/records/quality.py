"""The record of the artefacts on a slide."""

from __future__ import annotations

from typing import ClassVar

from histomake.base.records.record import Part, PositiveMpp, StageRecord


class Appearance(Part, frozen=True, kw_only=True):
    """How the glass and the tissue of a brightfield slide look, at the resolution of the tissue mask.

    Stains are medians over the tissue without artefacts, in optical density to base 10, relative to glass.
    """

    glass_brightness: float | None
    """Mean of the three channels of glass, 0 to 255; null where the slide shows hardly any."""
    glass_colour: float | None
    """Largest minus smallest channel of glass, 0 to 255: 0 for white light."""
    density: float
    """Mean optical density of the three channels: how strongly the tissue is stained, by any stain."""
    hue: float | None
    """Hue of the optical density, in degrees from -80 to 280 (van der Laak et al. 2000): about 65 for haematoxylin, \
120 for eosin, 205 for DAB; null for tissue without colour."""
    haematoxylin: float
    """Density of haematoxylin, by the matrix of Ruifrok and Johnston (2001); meant for H&E."""
    eosin: float
    """Density of eosin, by the same matrix."""


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
    appearance: Appearance | None = None
    """Colours of glass and tissue; null in fluorescence, and in records of earlier versions."""
