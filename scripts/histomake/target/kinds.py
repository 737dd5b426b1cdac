"""What each kind of task learns: names of outputs, targets of patches and slides, and decisions from scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from histomake.base.cells import classes_named, number, survival
from histomake.base.errors import ConfigError
from histomake.base.kinds import BACKGROUND, Kind
from histomake.config import Target
from histomake.target.pooling import Threshold, decide_class, decide_labels
from histomake.target.survival import high_risk
from histomake.target.targets import EVENT, TIME, UNLABELLED, class_areas, dominant_class, is_known

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Learned:
    """What one kind of task learns, for n patches and c classes.

    outputs: names of the network's outputs, in order.
    truth: names of the numbers that are the target, in order. Empty: the target is classes.
    of_areas: targets of patches, from annotated shares float32 (n, c) and whether the slide was annotated. If it was, a
        class that is not drawn is absent; otherwise it is unknown.
    of_row: target of a slide, and of each of its patches, from its labels by column (none: unknown) and its id.
    of_slide: target of a slide, from the known targets of its patches.
    decide: what is predicted, from scores float (n, outputs) and thresholds. None: scores are numbers.
    group: group of each item in evaluation, int64 (n,), from scores and thresholds, if nothing is decided. None: there
        are no groups.
    min_area: whether a patch has a class from ``target.min_area`` on. Otherwise any annotated area counts.
    thresholds: whether thresholds of ``decide`` or ``group`` are chosen on validation patches or bags.
    per_pixel: whether the network has an output for every pixel, learned from masks.
    exclusive: whether a patch or pixel has exactly one of the outputs, so that scores sum to one.
    """

    outputs: Callable[[Target], list[str]]
    truth: Callable[[Target], list[str]]
    of_areas: Callable[[NDArray[np.float32], Target, bool], NDArray[Any]]
    of_row: Callable[[Mapping[str, str], Target, str], NDArray[Any]]
    of_slide: Callable[[NDArray[Any]], NDArray[Any]]
    decide: Callable[[NDArray[np.floating], Threshold], NDArray[Any]] | None
    group: Callable[[NDArray[np.floating], Threshold], NDArray[np.int64]] | None
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
    NaN. Regression: float32 (n, outputs) or NaN. Segmentation: int64 (n,), the output with the largest area. Survival:
    float64 (n, 2), time and event, or NaN.
    ``annotated``: whether the slide was annotated, so that a class that is not drawn is absent, not unknown.
    """
    if target.source == "sheet":
        value = sheet_target(kind, target, labels, slide_id=slide_id)
        return np.broadcast_to(value, (table.num_rows, *value.shape)).copy()
    return LEARNED[kind].of_areas(class_areas(table, target.classes), target, annotated)


def sheet_target(kind: Kind, target: Target, labels: Mapping[str, str], *, slide_id: str) -> NDArray[Any]:
    """Target that the sheet gives to a slide and to each of its patches; unknown where its cell is empty.

    Classification: int64 (); several labels: float32 (classes,); regression: float32 (columns,); survival: float64
    (2,).
    Raises ConfigError for a cell that is not a class or not a number.
    """
    return LEARNED[kind].of_row(labels, target, slide_id)


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


def _classes_or_columns(target: Target) -> list[str]:
    return list(target.classes) or list(target.columns) or [target.column or ""]


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


def _cell(of_cell: Callable[[str, Target, str], NDArray[Any]]) -> Callable[..., NDArray[Any]]:
    """The target of a slide from its cell in ``target.column`` alone."""
    return lambda labels, target, slide_id: of_cell(labels.get(target.column or "") or "", target, slide_id)


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


def _numbers(labels: Mapping[str, str], target: Target, slide_id: str) -> NDArray[np.float32]:
    """The numbers in the columns of the target; NaN where a cell is empty."""
    found = []
    for column in target.sheet_columns:
        value = labels.get(column)
        try:
            found.append(number(value) if value else math.nan)
        except ValueError as error:
            raise ConfigError(f"slide {slide_id}: {column} is {error}; correct the sheet") from None
    return np.array(found, np.float32)


def _time_and_event(labels: Mapping[str, str], target: Target, slide_id: str) -> NDArray[np.float64]:
    try:
        found = survival(labels.get(target.time or ""), labels.get(target.event or ""))
    except ValueError as error:
        raise ConfigError(
            f"slide {slide_id}: {target.time} is {error}; correct {target.time} and {target.event} in the sheet, or "
            "empty both if they are unknown"
        ) from None
    return np.array(found or (math.nan, math.nan), np.float64)


def _no_areas(areas: NDArray[np.float32], target: Target, annotated: bool) -> NDArray[np.float64]:
    raise ConfigError("survival is not learned from annotation; set target.source: sheet, time and event")


def _no_numbers(target: Target) -> list[str]:
    return []


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
        truth=_no_numbers,
        of_areas=_dominant_class,
        of_row=_cell(_class),
        of_slide=_most_frequent,
        decide=decide_class,
        group=None,
        min_area=True,
        thresholds=True,
        per_pixel=False,
        exclusive=True,
    ),
    Kind.MULTI_LABEL: Learned(
        outputs=_classes,
        truth=_no_numbers,
        of_areas=_present_classes,
        of_row=_cell(_listed_classes),
        of_slide=_any,
        decide=decide_labels,
        group=None,
        min_area=True,
        thresholds=True,
        per_pixel=False,
        exclusive=False,
    ),
    Kind.REGRESSION: Learned(
        outputs=_classes_or_columns,
        truth=_classes_or_columns,
        of_areas=_area_shares,
        of_row=_numbers,
        of_slide=_mean,
        decide=None,
        group=None,
        min_area=False,
        thresholds=False,
        per_pixel=False,
        exclusive=False,
    ),
    Kind.SEGMENTATION: Learned(
        outputs=_classes_and_background,
        truth=_no_numbers,
        of_areas=_dominant_output,
        of_row=_cell(_no_cell),
        of_slide=_most_frequent,
        decide=decide_class,
        group=None,
        min_area=False,
        thresholds=False,
        per_pixel=True,
        exclusive=True,
    ),
    Kind.SURVIVAL: Learned(
        outputs=lambda target: ["risk"],
        truth=lambda target: [TIME, EVENT],
        of_areas=_no_areas,
        of_row=_time_and_event,
        of_slide=_mean,
        decide=None,
        group=high_risk,
        min_area=False,
        thresholds=True,
        per_pixel=False,
        exclusive=False,
    ),
}
