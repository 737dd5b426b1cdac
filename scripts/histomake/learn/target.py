"""Owns what a patch should be called: from annotated areas or the sheet's labels to training targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from histomake.config import Target, Task
from histomake.errors import ConfigError

UNLABELLED = -1


def patch_targets(table: pa.Table, task: Task, *, labels: Mapping[str, str], slide_id: str) -> np.ndarray:
    """Targets of a slide's patches, one row per row of ``table``.

    Classification: int64 (n,), index into ``target.classes`` or UNLABELLED.
    """
    target = task.target
    if target.source == "sheet":
        index = sheet_class(target, labels, slide_id=slide_id)
        return np.full(table.num_rows, index, dtype=np.int64)
    return dominant_class(class_areas(table, target.classes), min_area=target.min_area)


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


def sheet_class(target: Target, labels: Mapping[str, str], *, slide_id: str) -> int:
    """Index of the sheet's label of a slide; UNLABELLED if its cell is empty."""
    value = labels.get(target.column or "", "")
    if value == "":
        return UNLABELLED
    if value not in target.classes:
        raise ConfigError(
            f"slide {slide_id}: {target.column} is {value!r}, which is none of target.classes "
            f"({', '.join(target.classes)}); correct the sheet or add the class"
        )
    return target.classes.index(value)


def slide_class(target: Target, labels: Mapping[str, str], patch_labels: np.ndarray, *, slide_id: str) -> int:
    """The class of a whole slide: the sheet's, or else that of most annotated patches; UNLABELLED without any."""
    if target.source == "sheet":
        return sheet_class(target, labels, slide_id=slide_id)
    known = patch_labels[patch_labels != UNLABELLED]
    return int(np.bincount(known).argmax()) if len(known) else UNLABELLED
