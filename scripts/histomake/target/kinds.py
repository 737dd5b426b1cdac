"""What each kind of task learns: names of outputs, targets of patches and slides, and decisions from scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from histomake.base.cells import classes_named, number
from histomake.base.errors import ConfigError
from histomake.base.kinds import BACKGROUND, Kind
from histomake.config import Target
from histomake.target.pooling import Threshold, decide_class, decide_labels
from histomake.target.targets import UNLABELLED, class_areas, dominant_class, is_known

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Learned:
    """What one kind of task learns, for n patches and c classes.

    outputs: names of the network's outputs, in order.
    of_areas: targets of patches, from annotated shares float32 (n, c) and whether the slide was annotated. If it was, a
        class that is not drawn is absent; otherwise it is unknown.
    of_cell: target of a slide, and of each of its patches, from its cell in the sheet (empty: unknown) and its id.
    of_slide: target of a slide, from the known targets of its patches.
    decide: what is predicted, from scores float (n, outputs) and thresholds. None: scores are numbers.
    min_area: whether a patch has a class from ``target.min_area`` on. Otherwise any annotated area counts.
    thresholds: whether thresholds of ``decide`` are chosen on validation patches.
    per_pixel: whether the network has an output for every pixel, learned from masks.
    exclusive: whether a patch or pixel has exactly one of the outputs, so that scores sum to one.
    """

    outputs: Callable[[Target], list[str]]
    of_areas: Callable[[NDArray[np.float32], Target, bool], NDArray[Any]]
    of_cell: Callable[[str, Target, str], NDArray[Any]]
    of_slide: Callable[[NDArray[Any]], NDArray[Any]]
    decide: Callable[[NDArray[np.floating], Threshold], NDArray[Any]] | None
    min_area: bool
    thresholds: bool
    per_pixel: bool
    exclusive: bool

    @property
    def numbers(self) -> bool:
        """Whether scores are numbers of which nothing is decided."""
        return self.decide is None


def patch_targets(
    table: pa.Table, kind: Kind, target: Target, *, labels: Mapping[str, str], annotated: bool, slide_id: str
) -> NDArray[Any]:
    """Targets of a slide's patches, one row per row of ``table``.

    Classification: int64 (n,), index into the classes or UNLABELLED. Several labels: float32 (n, classes), 1, 0 or
    NaN. Regression: float32 (n, outputs) or NaN. Segmentation: int64 (n,), the output with the largest area.
    ``annotated``: whether the slide was annotated, so that a class that is not drawn is absent, not unknown.
    """
    if target.source == "sheet":
        value = sheet_target(kind, target, labels, slide_id=slide_id)
        return np.broadcast_to(value, (table.num_rows, *value.shape)).copy()
    return LEARNED[kind].of_areas(class_areas(table, target.classes), target, annotated)


def sheet_target(kind: Kind, target: Target, labels: Mapping[str, str], *, slide_id: str) -> NDArray[Any]:
    """Target that the sheet gives to a slide and to each of its patches; unknown where its cell is empty.

    Classification: int64 (); several labels: float32 (classes,); regression: float32 (1,). Raises ConfigError for a
    cell that is not a class or not a number.
    """
    return LEARNED[kind].of_cell(labels.get(target.column or "") or "", target, slide_id)


def slide_target(
    kind: Kind, target: Target, labels: Mapping[str, str], patch_targets: NDArray[Any], *, slide_id: str
) -> NDArray[Any]:
    """Target of a whole slide, shaped as one patch's.

    It comes from the sheet where that is the source. Otherwise, of the annotated patches it is the most frequent
    class, every class that any of them has, or the mean.
    """
    if target.source == "sheet":
        return sheet_target(kind, target, labels, slide_id=slide_id)
    known = patch_targets[is_known(patch_targets)]
    if len(known):
        return LEARNED[kind].of_slide(known)
    unknown = np.nan if np.issubdtype(patch_targets.dtype, np.floating) else UNLABELLED
    return np.full(patch_targets.shape[1:], unknown, patch_targets.dtype)


def _classes(target: Target) -> list[str]:
    return list(target.classes)


def _classes_or_column(target: Target) -> list[str]:
    return list(target.classes) or [target.column or ""]


def _classes_and_background(target: Target) -> list[str]:
    return [*([BACKGROUND] if target.unlabelled == "background" else []), *target.classes]


def _dominant_class(areas: NDArray[np.float32], target: Target, annotated: bool) -> NDArray[np.int64]:
    return dominant_class(areas, min_area=target.min_area)


def _present_classes(areas: NDArray[np.float32], target: Target, annotated: bool) -> NDArray[np.float32]:
    present = ((areas >= target.min_area) & (areas > 0)).astype(np.float32)
    return present if annotated else np.full_like(present, np.nan)


def _area_shares(areas: NDArray[np.float32], target: Target, annotated: bool) -> NDArray[np.float32]:
    return areas if annotated else np.full_like(areas, np.nan)


def _dominant_output(areas: NDArray[np.float32], target: Target, annotated: bool) -> NDArray[np.int64]:
    if not annotated:
        return np.full(len(areas), UNLABELLED)
    if target.unlabelled == "background":
        areas = np.concatenate([1 - areas.sum(axis=1, keepdims=True), areas], axis=1)
    return dominant_class(areas, min_area=0.0)


def _class(value: str, target: Target, slide_id: str) -> NDArray[np.int64]:
    found = [_class_index(name, target, slide_id) for name in classes_named(value, target.labels, several=False)]
    return np.array(found[0] if found else UNLABELLED, np.int64)


def _listed_classes(value: str, target: Target, slide_id: str) -> NDArray[np.float32]:
    if not value:
        return np.full(len(target.classes), np.nan, np.float32)
    found = [_class_index(part, target, slide_id) for part in classes_named(value, target.labels, several=True)]
    return np.isin(np.arange(len(target.classes)), found).astype(np.float32)


def _class_index(value: str, target: Target, slide_id: str) -> int:
    if value not in target.classes:
        raise ConfigError(
            f"slide {slide_id}: {target.column} is {value!r}, not one of target.classes ({', '.join(target.classes)}); "
            "correct the sheet, map it under target.labels, or add the class"
        )
    return target.classes.index(value)


def _number(value: str, target: Target, slide_id: str) -> NDArray[np.float32]:
    try:
        return np.array([number(value) if value else math.nan], np.float32)
    except ValueError as error:
        raise ConfigError(f"slide {slide_id}: {target.column} is {error}; correct the sheet") from None


def _no_cell(value: str, target: Target, slide_id: str) -> NDArray[Any]:
    raise ConfigError(
        f"slide {slide_id}: pixels cannot be learned from column {target.column} of the sheet; set target.source: mask"
    )


def _most_frequent(known: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array(np.bincount(known).argmax(), np.int64)


def _any(known: NDArray[np.floating]) -> NDArray[np.floating]:
    return known.max(axis=0)


def _mean(known: NDArray[np.floating]) -> NDArray[np.floating]:
    return known.mean(axis=0)


LEARNED: dict[Kind, Learned] = {
    Kind.CLASSIFICATION: Learned(
        outputs=_classes,
        of_areas=_dominant_class,
        of_cell=_class,
        of_slide=_most_frequent,
        decide=decide_class,
        min_area=True,
        thresholds=True,
        per_pixel=False,
        exclusive=True,
    ),
    Kind.MULTI_LABEL: Learned(
        outputs=_classes,
        of_areas=_present_classes,
        of_cell=_listed_classes,
        of_slide=_any,
        decide=decide_labels,
        min_area=True,
        thresholds=True,
        per_pixel=False,
        exclusive=False,
    ),
    Kind.REGRESSION: Learned(
        outputs=_classes_or_column,
        of_areas=_area_shares,
        of_cell=_number,
        of_slide=_mean,
        decide=None,
        min_area=False,
        thresholds=False,
        per_pixel=False,
        exclusive=False,
    ),
    Kind.SEGMENTATION: Learned(
        outputs=_classes_and_background,
        of_areas=_dominant_output,
        of_cell=_no_cell,
        of_slide=_most_frequent,
        decide=decide_class,
        min_area=False,
        thresholds=False,
        per_pixel=True,
        exclusive=True,
    ),
}
