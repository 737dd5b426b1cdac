"""The work of a job that reads annotations: in a process of its own, with its problems as quarantine entries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from histomake.annotation.apart import apart
from histomake.annotation.model import Annotation
from histomake.annotation.read import naming_slide, read_annotation
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined
from histomake.cohort.quarantine import attempt
from histomake.config import Annotations

STAGE = "annotate"
"""Stage in quarantine entries."""

SECONDS = 600
"""Time for reading and writing annotations. The job has more."""


def read_for(
    manifest: Manifest, path: Path | None, *, annotations: Mapping[str, Any], roi: Collection[str]
) -> Annotation:
    """Read an annotation of a slide; ``annotations`` is the section of the configuration. See `read_annotation`."""
    return read_annotation(
        path,
        Annotations.model_validate(annotations),
        slide_id=manifest.slide_id,
        width=manifest.width,
        height=manifest.height,
        mpp=manifest.mpp,
        properties=manifest.properties,
        roi=roi,
    )


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
