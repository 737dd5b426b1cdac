"""Training targets as arrays: unknown values, dominant classes, and groups for balancing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNLABELLED = -1
"""Class of what has no label; unknown numbers are NaN."""

JOINER = "+"
"""Between the classes of a patch that has several."""


TIME, EVENT = "time", "event"
"""Names of the two numbers that are the target of survival."""


def class_areas(table: pa.Table, classes: Sequence[str]) -> NDArray[np.float32]:
    """Annotated share of each patch per class, float32 (n, classes)."""
    columns = [table.column(f"area_{name}").to_numpy() for name in classes]
    return np.stack(columns, axis=1).astype(np.float32, copy=False)


def dominant_class(areas: NDArray[np.float32], *, min_area: float) -> NDArray[np.int64]:
    """Class with the largest area of each patch, int64 (n,); UNLABELLED where no class reaches ``min_area``.

    A patch without annotation has no class: it is never given the first one.
    """
    largest = areas.max(axis=1)
    return np.where((largest >= min_area) & (largest > 0), areas.argmax(axis=1), UNLABELLED).astype(np.int64)


def is_known(target: NDArray[Any]) -> NDArray[np.bool_]:
    """Which patches have a target: bool (n,). With several outputs one known value is enough."""
    unknown = np.isnan(target).all(axis=1) if np.issubdtype(target.dtype, np.floating) else target == UNLABELLED
    return np.logical_not(unknown)


def balance_group(target: NDArray[Any]) -> NDArray[np.int64]:
    """The class under which a patch is balanced, int64 (n,).

    With several labels it is the rarest one that the patch has, or one further group for patches with none.
    """
    if not np.issubdtype(target.dtype, np.floating):
        return target
    present = np.nan_to_num(target) > 0.5
    by_rarity = np.argsort(present.sum(axis=0), kind="stable")
    group = np.full(len(target), target.shape[1], np.int64)
    for output in by_rarity[::-1]:
        group[present[:, output]] = output
    return np.where(is_known(target), group, UNLABELLED)
