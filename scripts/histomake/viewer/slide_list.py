"""The list of slides in the viewer: state, scores of tasks, and a small picture of each."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NotRequired, TypedDict

from histomake.audit.sidecar import SIDECAR
from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined, RecordError
from histomake.base.units import Mpp
from histomake.evaluate.slide_scores import ALL_FOLDS
from histomake.pictures.canvas import as_jpeg
from histomake.slide.reader import open_slide

OK, QUARANTINED = "ok", "quarantined"
"""Values of ``status``, as in manifests."""

PREVIEW_PX = 96
"""Longer edge of a picture in the list, twice what it is shown at, for screens of high resolution."""

PREVIEW_QUALITY = 80
SCORE = "score_"


class ListedSlide(TypedDict):
    """A slide in the list: its size and resolution, or why it cannot be shown."""

    slide_id: str
    status: str
    width: NotRequired[int]
    height: NotRequired[int]
    mpp: NotRequired[float]
    reason: NotRequired[str]
    detail: NotRequired[str]


class SlideScores(TypedDict):
    """One output of a task, and its score of each slide that the task has predicted."""

    title: str
    slides: dict[str, float]


def slide_ids(layout: Layout) -> list[str]:
    """Ids of all slides with a manifest, including quarantined ones."""
    names = (path.name for path in existing(layout.manifest("*"), under=layout.results))
    return [name.removesuffix(".json") for name in names if not name.endswith(SIDECAR)]


def slides(layout: Layout) -> list[ListedSlide]:
    """One entry per slide."""
    return [_listed(layout, slide) for slide in slide_ids(layout)]


def _listed(layout: Layout, slide: str) -> ListedSlide:
    try:
        manifest = Manifest.read(layout.manifest(slide))
    except RecordError as error:
        return {"slide_id": slide, "status": "unreadable", "reason": "manifest", "detail": str(error)}
    if isinstance(manifest, Quarantined):
        return {"slide_id": slide, "status": QUARANTINED, "reason": manifest.reason, "detail": manifest.detail}
    return {
        "slide_id": slide,
        "status": OK,
        "width": manifest.width,
        "height": manifest.height,
        "mpp": manifest.mpp,
    }


def scores(layout: Layout) -> list[SlideScores]:
    """Scores of slides by all tasks that have been evaluated.

    Of a slide that the models of several folds have predicted, the mean over the folds.
    """
    found: list[SlideScores] = []
    for path in existing(layout.scores("*"), under=layout.results):
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["level"] == "slide"]
        # The row of all folds is the last one of its slide, whatever the order in the file.
        rows.sort(key=lambda row: row["fold"] == ALL_FOLDS)
        for column in rows[0] if rows else ():
            if column.startswith(SCORE):
                values = {row["slide_id"]: float(row[column]) for row in rows if row[column]}
                found.append({"title": f"{path.stem}: {column.removeprefix(SCORE)}", "slides": values})
    return found


def preview(manifest: Path) -> bytes:
    """A small picture of a slide, as JPEG."""
    with open_slide(manifest) as reader:
        pixels = reader.read_whole(Mpp(reader.mpp * max(reader.width, reader.height) / PREVIEW_PX))
    return as_jpeg(pixels, quality=PREVIEW_QUALITY)
