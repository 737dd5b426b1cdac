"""The slides of a training cohort with their files of features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from histomake.base.layout import Layout
from histomake.base.records.cohort import CohortSlide
from histomake.learn.data.patch_index import SlideEntry


class TrainingFeatures(TypedDict):
    """Slides to learn from and to choose with, and the file of features of each, by id."""

    train: list[SlideEntry]
    val: list[SlideEntry]
    files: dict[str, Path]


def feature_cohort(layout: Layout, cohort: Sequence[CohortSlide], *, grid: str, group: str) -> TrainingFeatures:
    """The slides of a cohort, on a grid, with the features of a group of encoders."""
    entries = [SlideEntry.at(layout, grid, slide.slide_id, slide.patient_id, slide.labels) for slide in cohort]
    by_role = {
        role: [entry for entry, slide in zip(entries, cohort, strict=True) if slide.role == role]
        for role in ("train", "val")
    }
    files = {slide.slide_id: layout.features(group, slide.slide_id) for slide in cohort}
    return TrainingFeatures(train=by_role["train"], val=by_role["val"], files=files)
