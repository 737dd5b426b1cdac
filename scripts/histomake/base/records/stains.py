"""The stain colours of a model's slides."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from histomake.base.records.record import Record


class StainRecord(Record, frozen=True, kw_only=True):
    """Colours of the slides a model with stain normalisation was trained on.

    For ``macenko``, ``stains`` are the optical densities of haematoxylin and eosin in R, G, B and ``strong`` their 99th
    percentiles; for ``reinhard``, ``mean`` and ``std`` are in CIELAB.
    """

    NAME: ClassVar[str] = "stain record"

    method: Literal["macenko", "reinhard"]
    """Method of the stain normalisation."""
    reference: str
    """Slide whose colours the others are normalised to."""
    slides: dict[str, dict[str, Any] | None]
    """Colours of every slide; null for a slide with too little stained tissue."""
