"""Owns what a patch should be called: from annotated areas or the sheet's labels to training targets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from histomake.base.errors import ConfigError
from histomake.base.kinds import BACKGROUND
from histomake.config import Target
from histomake.target.outputs import outputs_of

UNLABELLED = -1
"""Class of what nobody labelled; unknown numbers are NaN."""

JOINER = "+"
"""Between the classes of a patch that has several."""


def patch_targets(
    table: pa.Table, kind: str, target: Target, *, labels: Mapping[str, str], annotated: bool, slide_id: str
) -> np.ndarray:
    """Targets of a slide's patches, one row per row of ``table``.

    Classification: int64 (n,), index into the classes or UNLABELLED. Several labels: float32 (n, classes), 1, 0 or
    NaN. Regression: float32 (n, outputs) or NaN. Segmentation: int64 (n,), the output that covers most of the patch.
    ``annotated``: whether anybody looked at the slide, so that what is not drawn is absent and not unknown.
    """
    count = table.num_rows
    if target.source == "sheet":
        value = sheet_target(kind, target, labels, slide_id=slide_id)
        return np.broadcast_to(value, (count, *value.shape)).copy()
    areas = class_areas(table, target.classes)
    if kind == "regression":
        return areas if annotated else np.full_like(areas, np.nan)
    if target.multi_label:
        present = ((areas >= target.min_area) & (areas > 0)).astype(np.float32)
        return present if annotated else np.full_like(present, np.nan)
    if kind == "segmentation":
        if outputs_of(kind, target)[0] == BACKGROUND:
            areas = np.concatenate([1 - areas.sum(axis=1, keepdims=True), areas], axis=1)
        return dominant_class(areas, min_area=0.0) if annotated else np.full(count, UNLABELLED)
    return dominant_class(areas, min_area=target.min_area)


def class_areas(table: pa.Table, classes: Sequence[str]) -> np.ndarray:
    """Annotated share of each patch per class, float32 (n, classes)."""
    columns = [table.column(f"area_{name}").to_numpy() for name in classes]
    return np.stack(columns, axis=1).astype(np.float32, copy=False)


def dominant_class(areas: np.ndarray, *, min_area: float) -> np.ndarray:
    """Class with the largest area of each patch, int64 (n,); UNLABELLED where no class reaches ``min_area``.

    A patch without annotation has no class: it is never given the first one.
    """
    largest = areas.max(axis=1)
    return np.where((largest >= min_area) & (largest > 0), areas.argmax(axis=1), UNLABELLED).astype(np.int64)


def is_known(target: np.ndarray) -> np.ndarray:
    """Which patches have a target: bool (n,). With several outputs one known value is enough."""
    if target.dtype.kind == "f":
        return ~np.isnan(target).all(axis=1)
    return target != UNLABELLED


def sheet_target(kind: str, target: Target, labels: Mapping[str, str], *, slide_id: str) -> np.ndarray:
    """The target that the sheet gives to a slide and to each of its patches; unknown where its cell is empty.

    Classification: int64 (); several labels: float32 (classes,); regression: float32 (1,). Raises ConfigError for a
    cell that is no class or no number.
    """
    value = labels.get(target.column or "") or ""
    if kind == "regression":
        return np.array([_number(value, target, slide_id)], np.float32)
    if target.multi_label:
        if not value:
            return np.full(len(target.classes), np.nan, np.float32)
        found = [_class_index(part.strip(), target, slide_id) for part in value.split(",")]
        return np.isin(np.arange(len(target.classes)), found).astype(np.float32)
    return np.array(_class_index(value, target, slide_id) if value else UNLABELLED, np.int64)


def _number(value: str, target: Target, slide_id: str) -> float:
    try:
        number = float(value) if value else math.nan
    except ValueError:
        number = math.inf
    if math.isinf(number):
        raise ConfigError(f"slide {slide_id}: {target.column} is {value!r}, which is no number; correct the sheet")
    return number


def _class_index(value: str, target: Target, slide_id: str) -> int:
    if value not in target.classes:
        raise ConfigError(
            f"slide {slide_id}: {target.column} is {value!r}, which is none of target.classes "
            f"({', '.join(target.classes)}); correct the sheet or add the class"
        )
    return target.classes.index(value)


def balance_group(target: np.ndarray) -> np.ndarray:
    """The class under which a patch is balanced, int64 (n,).

    With several labels it is the rarest one that the patch has, or one further group for patches with none.
    """
    if target.dtype.kind != "f":
        return target
    present = np.nan_to_num(target) > 0.5
    by_rarity = np.argsort(present.sum(axis=0), kind="stable")
    group = np.full(len(target), target.shape[1], np.int64)
    for output in by_rarity[::-1]:
        group[present[:, output]] = output
    return np.where(is_known(target), group, UNLABELLED)


def slide_target(
    kind: str, target: Target, labels: Mapping[str, str], patch_targets: np.ndarray, *, slide_id: str
) -> np.ndarray:
    """The target of a whole slide, shaped as one patch's.

    The sheet's where it is the source; else of its annotated patches the most frequent class, every class that
    any of them has, or the mean.
    """
    if target.source == "sheet":
        return sheet_target(kind, target, labels, slide_id=slide_id)
    known = patch_targets[is_known(patch_targets)]
    if not len(known):
        unknown = UNLABELLED if patch_targets.dtype.kind != "f" else np.nan
        return np.full(patch_targets.shape[1:], unknown, patch_targets.dtype)
    if patch_targets.dtype.kind != "f":
        return np.array(np.bincount(known).argmax(), np.int64)
    return known.max(axis=0) if target.multi_label else known.mean(axis=0)
