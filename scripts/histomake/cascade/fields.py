"""Annotated slides of a cascade: levels, ground truth and pixels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from histomake.base.errors import HistomakeError, SlideError
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import usable
from histomake.cascade.levels import Level, require_resolution, slide_levels
from histomake.cascade.truth import Truth, open_truth
from histomake.config import Annotations, Radhical
from histomake.slide.reader import SlideReader, open_slide

log = logging.getLogger(__name__)

ZOOMS = (0.0, -1.0, -0.5, 0.5, 1.0)
"""Doublings of the resolution at which a slide is sampled, in units of ``train.zoom``; the true resolution first."""


class Field(NamedTuple):
    """One annotated slide, at one resolution: its levels, its ground truth and a reader of its store."""

    slide_id: str
    reader: SlideReader
    levels: Sequence[Level]
    truth: Truth


def open_fields(
    slides: Sequence[tuple[Path, Path]], annotations: Annotations, config: Radhical, *, zoom: float = 1.0
) -> list[Field]:
    """Open annotated slides, given as (manifest, annotation) pairs.

    Those in quarantine, too coarse for the cascade, or with an unreadable annotation are left out with a warning.

    Args:
        slides: Manifest and annotation of each slide.
        annotations: The ``annotations`` section of the configuration.
        config: The cascade.
        zoom: Factor by which all levels are coarser than configured.

    Raises:
        HistomakeError: No slide can be used.
    """
    fields, lost = [], []
    for manifest, annotation in slides:
        content = Manifest.read(manifest)
        try:
            content = usable(content)
            require_resolution(content, config)
            levels = slide_levels(content, config.model_copy(update={"mpp": config.mpp * zoom}))
            truth = open_truth(
                annotation, annotations, config.objects, slide_id=content.slide_id, level=levels[0], manifest=content
            )
        except SlideError as error:
            lost.append(f"{error.slide_id}: {error.detail}; {error.remedy}")
            log.warning("slide left out: %s", lost[-1])
            continue
        fields.append(Field(content.slide_id, open_slide(manifest), levels, truth))
    if not fields:
        raise HistomakeError("no annotated slide of this step can be used:\n" + "\n".join(lost))
    return fields


def training_fields(slides: Sequence[tuple[Path, Path]], annotations: Annotations, config: Radhical) -> list[Field]:
    """Open slides with `open_fields`, once for each resolution that ``train.zoom`` asks for; the true one first."""
    zooms = [2 ** (z * config.train.zoom) for z in (ZOOMS if config.train.zoom else ZOOMS[:1])]
    return [field for zoom in zooms for field in open_fields(slides, annotations, config, zoom=zoom)]
