"""Reinhard's and Macenko's normalisations as references of a stain transfer: they move colours, but no structure."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from histomake.base.errors import SlideError
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.data.stains import learn_slide
from histomake.patch.stain import Colours, Method, StainNormaliser, choose_reference

log = logging.getLogger(__name__)

METHODS: tuple[Method, ...] = ("reinhard", "macenko")

REFERENCE_SLIDES = 8
"""Training slides of the wanted stain among which the reference is chosen."""

Stains = Mapping[Method, StainNormaliser]


def reference_stains(slides: Sequence[SlideEntry]) -> dict[Method, StainNormaliser]:
    """Normalisations to the colours of one of the slides; a method is missing if it finds no colours in any."""
    chosen = [slides[n] for n in np.unique(np.linspace(0, len(slides) - 1, REFERENCE_SLIDES).astype(int))]
    found: dict[Method, StainNormaliser] = {}
    for method in METHODS:
        colours = dict[str, Colours]()
        probe = StainNormaliser(method, reference={})
        for slide in chosen:
            try:
                known = learn_slide(probe, slide)
            except SlideError as error:
                log.warning("slide %s cannot be a reference: %s", slide.slide_id, error)
                continue
            if known is not None:
                colours[slide.slide_id] = known
        if (name := choose_reference(method, colours)) is not None:
            found[method] = StainNormaliser(method, reference=colours[name])
    return found


def learned(stains: Stains, slide: SlideEntry) -> dict[Method, StainNormaliser]:
    """The normalisations for which the colours of a slide can be estimated. Raises SlideError if it is damaged."""
    return {method: stain for method, stain in stains.items() if learn_slide(stain, slide) is not None}
