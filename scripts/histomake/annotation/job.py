"""The work of a job that reads annotations: in a process of its own, with its problems as quarantine entries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from histomake.annotation.apart import apart
from histomake.annotation.read import naming_slide
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.record import Quarantined
from histomake.cohort.quarantine import attempt

STAGE = "annotate"
"""Stage in quarantine entries."""

SECONDS = 600
"""Time for reading and writing annotations. The job has more."""


def annotate_apart(
    work: Callable[[], AnnotationRecord], source: Path | str, slide_id: str, *, record: Path | str, memory_mb: int
) -> AnnotationRecord | Quarantined:
    """Do ``work``, which reads and writes the annotation of a slide, in a child process.

    Args:
        work: raises SlideError if the annotation cannot be used.
        source: the file, or files, named if the process crashes or takes too long.
        slide_id: the slide.
        record: path of the record, for messages.
        memory_mb: most memory of the process, in MB.

    Returns:
        What ``work`` returns, or a quarantine entry.
    """

    def answer() -> AnnotationRecord | Quarantined:
        with naming_slide(Path(source), slide_id):
            text = apart(lambda: attempt(STAGE, work).encode(record), memory_mb=memory_mb, seconds=SECONDS)
        return AnnotationRecord.decode(text, record)

    return attempt(STAGE, answer)
