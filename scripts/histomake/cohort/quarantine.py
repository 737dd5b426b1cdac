"""Quarantine of bad slides: their records in place of results, and the allowed share of lost slides."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from histomake.base.errors import HistomakeError, Reason, SlideError
from histomake.base.files import STORE_METADATA
from histomake.base.records.record import Quarantined, StageRecord

log = logging.getLogger(__name__)


def in_memory[R](work: Callable[[], R], *, slide_id: str, rule: str, output: Path | str, manifest: Path | str) -> R:
    """Return the result of work that holds a whole slide at once.

    Raises SlideError with OUT_OF_MEMORY if an allocation fails. A job that is killed for its memory fails instead, and
    is tried again with more.
    """
    try:
        return work()
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        log.exception("memory does not suffice")
        raise SlideError(
            Reason.OUT_OF_MEMORY,
            slide_id=slide_id,
            path=manifest,
            detail=f"the slide needs more memory than a job of rule {rule} may have",
            remedy=f"Make {output} again with more: --set-resources {rule}:mem_mb=MB --forcerun {output}",
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation of Python, NumPy or OpenCV failed. OpenCV is not imported for this."""
    cv2 = sys.modules.get("cv2")
    return isinstance(error, MemoryError) or (
        cv2 is not None and isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem
    )


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


def lost_store(store: Path) -> Quarantined | None:
    """Return the quarantine entry in a store that `histomake.base.files.write_empty_store` has written; else None."""
    path = store / STORE_METADATA
    entry = json.loads(path.read_bytes()).get("attributes", {}).get("histomake")
    return None if entry is None else Quarantined.decode(json.dumps(entry), path)


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
