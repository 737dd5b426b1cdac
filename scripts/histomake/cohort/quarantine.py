"""Owns what happens to a bad slide: its record in place of a result, and how much of a cohort may be lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from histomake.base.errors import HistomakeError, SlideError

log = logging.getLogger(__name__)


def attempt(stage: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The record of a slide's stage: what ``work`` returns, or the quarantine entry if the slide is bad."""
    try:
        return work()
    except SlideError as error:
        log.error("QUARANTINE: %s", error)
        return {**error.as_record(), "stage": stage}


def quarantined(*records: dict[str, Any]) -> dict[str, Any] | None:
    """The first quarantine entry among the records of earlier stages, if any."""
    return next((record for record in records if record["status"] != "ok"), None)


def collect(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry per quarantined slide, from its earliest stage; sorted by slide.

    ``records`` come stage by stage, in the order of the workflow.
    """
    first: dict[str, dict[str, Any]] = {}
    for record in records:
        if record["status"] != "ok":
            first.setdefault(record["slide_id"], record)
    return [first[slide] for slide in sorted(first)]


def check_loss(entries: list[dict[str, Any]], *, slides: int, max_share: float) -> None:
    """Raise HistomakeError, naming every slide and reason, when more than ``max_share`` of the cohort is lost."""
    if len(entries) <= max_share * slides:
        return
    listed = "\n".join(f"  {e['slide_id']} ({e['reason']}): {e['detail']}. {e['remedy']}" for e in entries)
    raise HistomakeError(
        f"{len(entries)} of {slides} slides are in quarantine, more than the {max_share:.0%} allowed "
        f"(max_quarantined, on_bad_slide in config.yaml):\n{listed}"
    )
