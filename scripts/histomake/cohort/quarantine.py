"""Quarantine of bad slides: their records in place of results, and the allowed share of lost slides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from histomake.base.errors import HistomakeError, SlideError
from histomake.base.records.record import Quarantined, StageRecord

log = logging.getLogger(__name__)


def attempt[R](stage: str, work: Callable[[], R], *, lost: list[Quarantined] | None = None) -> R | Quarantined:
    """Return the result of ``work``, or a quarantine entry if it raises SlideError; the entry is added to ``lost``."""
    try:
        return work()
    except SlideError as error:
        log.error("QUARANTINE: %s", error)
        entry = Quarantined.of(error, stage)
        if lost is not None:
            lost.append(entry)
        return entry


def collect(records: Iterable[StageRecord | Quarantined]) -> list[Quarantined]:
    """Return one entry per quarantined slide, from its earliest stage, sorted by slide.

    ``records`` must be ordered by stage, in the order of the workflow.
    """
    first: dict[str, Quarantined] = {}
    for record in records:
        if isinstance(record, Quarantined):
            first.setdefault(record.slide_id, record)
    return [first[slide] for slide in sorted(first)]


def check_loss(entries: Sequence[Quarantined], *, slides: int, max_share: float) -> None:
    """Raise HistomakeError with all slides and reasons if more than ``max_share`` of the cohort is quarantined."""
    if len(entries) <= max_share * slides:
        return
    listed = "\n".join(f"  {e.slide_id} ({e.reason}): {e.detail}. {e.remedy}" for e in entries)
    raise HistomakeError(
        f"{len(entries)} of {slides} slides are in quarantine, more than the {max_share:.0%} allowed "
        f"(max_quarantined, on_bad_slide in config.yaml):\n{listed}"
    )
