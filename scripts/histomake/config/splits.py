"""Keys of splits: how patients are divided into training, validation and test."""

from __future__ import annotations

from pydantic import Field

from histomake.config.section import Name, Section, Share


class Split(Section):
    """Patient-level folds. A patient has a single role in each fold: of its own task, or of another one."""

    folds: int = Field(
        1,
        ge=1,
        le=20,
        description="1: one train/val/test split; more: cross-validation in which each patient is tested once. From 3 "
        "folds on, every patient trains in at least one fold and is validated about equally often.",
    )
    test: Share = Field(0.25, description="Share of patients held out for testing if folds is 1.")
    val: Share = Field(
        0.2, description="Share of the remaining patients used for validation: choice of checkpoints and thresholds."
    )
    stratify: list[str] = Field(
        default_factory=list,
        description="Columns of the sheet to balance over the roles, such as the site, the most important first. The "
        "class column of a task is always balanced before them. Strata of fewer than 3 patients, or than folds, are "
        "balanced together, and a run says which.",
    )
    like: Name | None = Field(
        None,
        description="Another task whose patients have the same roles in this task. The other keys of split are then "
        "those of that task. Stages of a cascade need the same roles. A slide without a role there, or without a "
        "target here, is only predicted.",
    )
