"""The record of an embedding: how well groups of patches are separated."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from histomake.base.records.record import Count, Part, Quarantined, Record


class BatchEffect(Part, frozen=True, kw_only=True):
    """How well a group of a patch is predicted from the features of its nearest neighbours."""

    balanced_accuracy: float
    """Balanced accuracy in cross-validation, 0 to 1."""
    chance: float
    """Balanced accuracy by chance: 1 / ``groups``."""
    groups: Count
    """Number of groups."""


class SeparationRecord(Record, frozen=True, kw_only=True):
    """How well a model's features separate groups of patches: classes, slides, patients and sites."""

    NAME: ClassVar[str] = "separation record"

    patches: Count
    """Number of embedded patches."""
    slides: Count
    """Number of their slides."""
    features: Count
    """Number of features of a patch."""
    silhouette: dict[str, float]
    """Silhouette (Rousseeuw 1987), -1 to 1, by what patches are grouped by: ``label``, ``predicted``, ``slide_id``, \
``patient_id``, ``site``. Groupings with fewer than two groups of 10 patches are missing."""
    batch_effect: dict[str, BatchEffect]
    """Prediction of ``slide_id``, ``patient_id`` and ``site`` from the features. Far above chance, the features \
encode the scanner or the laboratory."""
    left_out: list[Quarantined] = msgspec.field(default_factory=list)
    """Slides whose patches could not be read."""
