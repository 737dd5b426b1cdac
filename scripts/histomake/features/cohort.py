"""The slides of a training cohort with their files of features."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from histomake.base.layout import Layout
from histomake.learn.data.cohort import TrainingCohort
from histomake.learn.data.patch_index import SlideEntry


class TrainingFeatures(TypedDict):
    """Slides to learn from and to choose with, and the file of features of each, by id."""

    train: list[SlideEntry]
    val: list[SlideEntry]
    files: dict[str, Path]


def feature_cohort(layout: Layout, cohort: TrainingCohort, *, group: str) -> TrainingFeatures:
    """The slides of a cohort with the features of a group of encoders."""
    files = {slide.slide_id: layout.features(group, slide.slide_id) for slide in cohort.slides}
    return TrainingFeatures(train=cohort.train, val=cohort.val, files=files)
