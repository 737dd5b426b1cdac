"""How each kind of task is trained: its loss, its scores, its validation, and the check of its classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from histomake.base.kinds import Kind
from histomake.config import Target
from histomake.learn.data.patch_index import PatchIndex, patches_containing
from histomake.learn.heads import fits
from histomake.learn.inference import validation

Loss = Callable[[Tensor, Tensor], Tensor]

CountClasses = Callable[[PatchIndex, Target, Sequence[str]], dict[str, int]]
"""Patches of each class, from an index, the target and the names of the outputs."""


@dataclass(frozen=True)
class OnFeatures:
    """How one kind of task is learned from features.

    linear: weights and biases from scaled features, targets, weights of patches and a penalty.
    values: targets as numbers (n, outputs), NaN where unknown, and ``as_logits`` from means of such numbers to logits.
    """

    linear: Callable[[np.ndarray, np.ndarray, np.ndarray, float], fits.Fitted]
    values: Callable[[np.ndarray, int], np.ndarray]
    as_logits: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Trained:
    """How one kind of task is trained.

    loss: name of the loss if ``train.loss`` is auto.
    activate: scores from logits (n, outputs, …).
    meter: measures validation patches; made from the number of outputs and the loss.
    count_classes: counts the patches of each class, of which none may be missing. None: there are no classes.
    on_features: how it is learned from one vector per patch. None: it needs pixels.
    """

    loss: str
    activate: Callable[[Tensor], Tensor]
    meter: Callable[[int, Loss], validation.ScoreMeter | validation.PixelMeter]
    count_classes: CountClasses | None
    on_features: OnFeatures | None


def _class_meter(outputs: int, loss: Loss) -> validation.ScoreMeter:
    return validation.ScoreMeter(
        validation.exclusive_scores, validation.classification_scores, validation.class_thresholds
    )


def _label_meter(outputs: int, loss: Loss) -> validation.ScoreMeter:
    return validation.ScoreMeter(
        validation.independent_scores, validation.multi_label_scores, validation.label_thresholds
    )


def _number_meter(outputs: int, loss: Loss) -> validation.ScoreMeter:
    return validation.ScoreMeter(validation.numbers, validation.regression_scores, validation.no_thresholds)


def _risk_meter(outputs: int, loss: Loss) -> validation.ScoreMeter:
    return validation.ScoreMeter(validation.numbers, validation.survival_scores, validation.median_risk)


def _count_patches(patches: PatchIndex, target: Target, outputs: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(patches.target, minlength=len(outputs))
    return dict(zip(outputs, counts.tolist(), strict=True))


def _count_labels(patches: PatchIndex, target: Target, outputs: Sequence[str]) -> dict[str, int]:
    counts = (np.nan_to_num(patches.target) > 0.5).sum(axis=0)
    return dict(zip(outputs, counts.tolist(), strict=True))


def _count_containing(patches: PatchIndex, target: Target, outputs: Sequence[str]) -> dict[str, int]:
    # A rare structure may not cover half of any patch, so patches that contain the class count.
    return {name: int(patches_containing(patches, name).sum()) for name in target.classes}


TRAINED: dict[Kind, Trained] = {
    Kind.CLASSIFICATION: Trained(
        loss="ce",
        activate=validation.exclusive_scores,
        meter=_class_meter,
        count_classes=_count_patches,
        on_features=OnFeatures(fits.fit_classes, fits.class_values, fits.share_logits),
    ),
    Kind.MULTI_LABEL: Trained(
        loss="bce",
        activate=validation.independent_scores,
        meter=_label_meter,
        count_classes=_count_labels,
        on_features=OnFeatures(fits.fit_labels, fits.given_values, fits.label_logits),
    ),
    Kind.REGRESSION: Trained(
        loss="huber",
        activate=validation.numbers,
        meter=_number_meter,
        count_classes=None,
        on_features=OnFeatures(fits.fit_numbers, fits.given_values, fits.same_values),
    ),
    Kind.SURVIVAL: Trained(
        loss="cox_efron",
        activate=validation.numbers,
        meter=_risk_meter,
        count_classes=None,
        on_features=OnFeatures(fits.fit_hazards, fits.equal_risks, fits.same_values),
    ),
    Kind.SEGMENTATION: Trained(
        loss="dice_ce",
        activate=validation.exclusive_scores,
        meter=validation.PixelMeter,
        count_classes=_count_containing,
        on_features=None,
    ),
}
