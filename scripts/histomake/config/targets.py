"""Keys of targets: what a task learns of each patch, pixel, slide or patient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, model_validator

from histomake.base.kinds import BACKGROUND, Kind
from histomake.config.kinds import ACCEPTED
from histomake.config.section import Name, Section, Share


class Target(Section):
    """The training target of a task, per patch, pixel or slide."""

    source: Literal["annotation", "sheet", "mask"] = Field(
        "annotation",
        description="annotation: area shares of the patch; sheet: a label column; mask: the label of every pixel.",
    )
    classes: list[Name] = Field(
        default_factory=list,
        description="Classes in the order of the outputs. Of two classes the second is the positive one. Regression "
        "predicts their area shares, or without classes the number in the column.",
    )
    column: str | None = Field(
        None,
        description="Label column of the sheet if source is sheet. For multi_label, several classes in a cell are "
        "separated by commas.",
    )
    columns: list[Name] = Field(
        default_factory=list,
        description="Several columns of the sheet with numbers, such as [CXCL13, CCL19], which a regression predicts "
        "at once. A slide with some of its cells empty is trained on with the others.",
    )
    time: str | None = Field(
        None,
        description="Column of the sheet with the time to the event or to the end of observation, for survival. Any "
        "unit, counted from the same start for all patients; more than 0.",
    )
    event: str | None = Field(
        None,
        description="Column of the sheet that says whether the event happened at that time, for survival. 1: it did; "
        "0: it had not until then (censored). Slides without time and event are predicted and not trained on.",
    )
    labels: dict[str, Name] = Field(
        default_factory=dict,
        description='Text in the column → class, if cells do not have the names of classes: {"Stage II": high}. Any '
        "text is allowed; several texts may map to one class. For multi_label, a whole cell or one of its items.",
    )
    min_area: Share = Field(
        0.5,
        description="Smallest annotated share of a class with which a patch has the class. With classification, "
        "patches below it for every class are unlabelled; with multi_label they have none of the classes. "
        "Example: with one class and 0.01, a patch is positive from 1 % on and negative below.",
    )
    unlabelled: Literal["ignore", "background"] = Field(
        "ignore",
        description="Pixels without annotation if source is mask. ignore: exclude them from training and evaluation; "
        "background: use them as an additional class.",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_multi_label(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "multi_label" in raw:
            raise ValueError(
                "multi_label is a kind of task: replace target.multi_label: true by kind: multi_label, or remove "
                "target.multi_label: false"
            )
        return raw

    @model_validator(mode="after")
    def _column_with_sheet(self) -> Target:
        if (self.source == "sheet") != bool(self.sheet_columns):
            raise ValueError(
                "target.column (of survival target.time and target.event) is required with source: sheet, and not "
                "allowed with other sources"
            )
        return self

    @property
    def sheet_columns(self) -> list[str]:
        """Columns of the sheet that the target is read from."""
        return [name for name in (self.column, *self.columns, self.time, self.event) if name is not None]

    @model_validator(mode="after")
    def _different_columns(self) -> Target:
        if self.column is not None and self.columns:
            raise ValueError("target.column and target.columns exclude each other; list all columns in target.columns")
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("target.columns: a column is listed twice")
        return self

    @model_validator(mode="after")
    def _labels_are_classes(self) -> Target:
        if self.labels and not (self.source == "sheet" and self.classes):
            raise ValueError("target.labels maps texts of target.column to target.classes; it needs both")
        problems = [
            f"target.labels: {text!r} maps to {name!r}, which is not in target.classes"
            for text, name in self.labels.items()
            if name not in self.classes
        ]
        problems += [
            f"target.labels: {text!r} is a class itself and cannot map to {name!r}"
            for text, name in self.labels.items()
            if text in self.classes and text != name
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def class_names(target: Target) -> set[str]:
    """Return the classes of patches or pixels. Their order is defined in `histomake.target.outputs`."""
    return {*target.classes, *([BACKGROUND] if target.unlabelled == "background" else [])}


def target_problems(kind: Kind, target: Target) -> Iterator[str]:
    """What in a target does not fit the kind of the task."""
    accepted = ACCEPTED[kind]
    if target.source not in accepted.sources:
        yield f"target.source: {target.source} does not fit {kind}; use one of {', '.join(accepted.sources)}"
    if target.columns and not accepted.several_columns:
        yield f"target.columns: {kind} does not learn several columns; use {', '.join(accepted.columns)}"
    for key in ("column", "time", "event") if target.sheet_columns else ():
        given = getattr(target, key) is not None or (key == "column" and bool(target.columns))
        if given and key not in accepted.columns:
            yield f"target.{key}: {kind} has no such column; use {', '.join(accepted.columns)}"
        elif not given and key in accepted.columns:
            yield f"target.{key}: {kind} needs {' and '.join(accepted.columns)}, columns of the sheet"
    if target.time is not None and target.time == target.event:
        yield "target.time and target.event are the same column"
    if target.unlabelled != "ignore" and not accepted.background:
        yield f"target.unlabelled: {target.unlabelled} does not fit {kind}"
    if accepted.least_classes is None:
        if "annotation" not in accepted.sources:
            if target.classes:
                yield f"target.classes: {kind} has no classes; remove them"
        elif bool(target.classes) == (target.source == "sheet"):
            yield f"{kind} predicts the area shares of target.classes, or numbers in target.column or target.columns"
    elif len(class_names(target)) < accepted.least_classes:
        yield f"target.classes: {kind} needs at least {accepted.least_classes} class(es)"
    if len(set(target.classes)) < len(target.classes) or BACKGROUND in target.classes:
        yield f"target.classes must be unique and must not contain {BACKGROUND!r}"
