"""The slides of a training cohort, whose files must still be those that the cohort was made of."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_files
from histomake.base.layout import Layout
from histomake.base.records.cohort import CohortSlide
from histomake.learn.data.patch_index import SlideEntry


class TrainingCohort(NamedTuple):
    """slides: as in the file; train, val: the slides to learn from and to choose with."""

    slides: list[CohortSlide]
    train: list[SlideEntry]
    val: list[SlideEntry]


def read_cohort(layout: Layout, path: Path | str, *, grid: str) -> TrainingCohort:
    """Read the training cohort of a task on a grid.

    Manifests, patch tables and annotation records of the slides are no inputs of a training, so the digests that the
    cohort states are compared here.

    Raises HistomakeError if one of these files has other bytes.
    """
    slides = CohortSlide.read_list(path)
    entries = [SlideEntry.at(layout, grid, s.slide_id, s.patient_id, s.labels, s.readers) for s in slides]
    files: list[Path] = []
    stated: list[str] = []
    for slide, entry in zip(slides, entries, strict=True):
        own = (entry.manifest, entry.table, layout.annotation(slide.slide_id))
        files += own[: len(slide.digests)]
        stated += slide.digests[: len(own)]
        for reader, found in entry.readings.items():
            files += [found.table, found.annotation]
            stated += slide.readers[reader]
    altered = [str(f) for f, was, now in zip(files, stated, sha256_files(files), strict=True) if was != now]
    if altered:
        raise HistomakeError(
            f"not the bytes that the training cohort was made of: {', '.join(altered)}. Have the files made again, or "
            f"if they are right the cohort: rm {path}"
        )
    by_role = {
        role: [entry for entry, slide in zip(entries, slides, strict=True) if slide.role == role]
        for role in ("train", "val")
    }
    return TrainingCohort(slides, by_role["train"], by_role["val"])
