"""Types shared by the readers of annotation files: errors, shapes as drawn, and the state of reading a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import shapely

from histomake.base.units import Level0Pixels, Mpp
from histomake.config import Annotations

REMEDY = "Correct or re-export the annotation, or empty the slide's annotation cell in the sheet"


class AnnotationError(Exception):
    """A problem found by a format reader, which does not know the slide of the file."""

    def __init__(self, detail: str, remedy: str = REMEDY) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy


class Drawn(NamedTuple):
    """One shape as read from a file: the annotator's class name and a geometry that may be invalid."""

    name: str
    geometry: shapely.Geometry


@dataclass(frozen=True)
class SlideFrame:
    """The slide that a file annotates.

    width, height: level-0 pixels; mpp: µm per pixel of level 0, None if unknown; properties: the scanner's metadata
    kept in the manifest.
    """

    slide_id: str
    width: Level0Pixels
    height: Level0Pixels
    mpp: Mpp | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Reading:
    """State of reading one file: settings and slide, and the reader's counts and warnings.

    skipped: shapes that are left out because they have no area, by the file's name for their kind.
    warnings: complete sentences for the report.
    """

    config: Annotations
    slide: SlideFrame
    skipped: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
