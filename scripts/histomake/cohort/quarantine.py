"""Quarantine of bad slides: their records in place of results, and the allowed share of lost slides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from histomake.base.errors import HistomakeError, SlideError

log = logging.getLogger(__name__)


def attempt(stage: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the record of a slide's stage: the result of ``work``, or a quarantine entry if the slide is bad."""
    try:
        return work()
    except SlideError as error:
        log.error("QUARANTINE: %s", error)
        return {**error.as_record(), "stage": stage}


def quarantined(*records: dict[str, Any]) -> dict[str, Any] | None:
    """Return the first quarantine entry among the records of earlier stages, or None."""
    return next((record for record in records if record["status"] != "ok"), None)


def collect(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry per quarantined slide, from its earliest stage, sorted by slide.

    ``records`` must be ordered by stage, in the order of the workflow.
    """
    first: dict[str, dict[str, Any]] = {}
    for record in records:
        if record["status"] != "ok":
            first.setdefault(record["slide_id"], record)
    return [first[slide] for slide in sorted(first)]


def check_loss(entries: list[dict[str, Any]], *, slides: int, max_share: float) -> None:
    """Raise HistomakeError with all slides and reasons if more than ``max_share`` of the cohort is quarantined."""
    if len(entries) <= max_share * slides:
        return
    listed = "\n".join(f"  {e['slide_id']} ({e['reason']}): {e['detail']}. {e['remedy']}" for e in entries)
    raise HistomakeError(
        f"{len(entries)} of {slides} slides are in quarantine, more than the {max_share:.0%} allowed "
        f"(max_quarantined, on_bad_slide in config.yaml):\n{listed}"
    )
