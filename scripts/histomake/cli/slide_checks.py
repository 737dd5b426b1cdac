"""Whether the slides of a sheet can be opened, as rule ``convert`` opens them; nothing is converted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from histomake.base.errors import HistomakeError, SlideError
from histomake.base.files import in_threads
from histomake.base.records.record import Quarantined
from histomake.cli.findings import Finding, ok, problem, warning
from histomake.cohort.quarantine import check_loss
from histomake.cohort.sheet import Slide
from histomake.config import Convert
from histomake.slide.plan import copied_levels, plan_levels
from histomake.slide.source import open_source, resolve_mpp, slide_errors

THREADS = 4
"""Slides that are opened at once: opening waits for the disk or the file server."""


def readable(slides: Iterable[Slide], config: Convert, *, max_share: float) -> Iterator[Finding]:
    """A warning for each slide that a run would put into quarantine, and a problem if it would then stop.

    Slides without their file are used from their store and are not opened. ``max_share`` is the share of slides that
    may be lost. What shows only when tiles are decoded, such as damaged tiles, is not found.
    """
    slides = list(slides)
    present = [slide for slide in slides if Path(slide.path).exists()]
    entries = [entry for entry in in_threads(lambda slide: refusal(slide, config), present, THREADS) if entry]
    for entry in entries:
        yield warning(f"slide {entry.slide_id}", f"{entry.reason}: {entry.detail} ({entry.path})", entry.remedy)
    try:
        check_loss(entries, slides=len(slides), max_share=max_share)
    except HistomakeError as error:
        yield problem("slides", str(error).partition(":\n")[0], "correct the slides above, or take them off the sheet")
        return
    yield ok("slides", f"{len(present) - len(entries)} of {len(present)} can be opened and have a resolution")


def refusal(slide: Slide, config: Convert) -> Quarantined | None:
    """The entry of the quarantine that ``convert`` would write before it reads a tile; None for a good slide."""
    path = Path(slide.path)
    try:
        with open_source(path, slide_id=slide.slide_id) as source, slide_errors(slide.slide_id, path):
            resolve_mpp(source.info, slide.mpp, slide_id=slide.slide_id, path=path)
            plan_levels(copied_levels(source.info.levels, config), config)
    except SlideError as error:
        return Quarantined.of(error, "convert")
    return None
