"""Figures of validation patches during training, and the thresholds chosen on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from histomake.target.pooling import POOLINGS, Threshold, pool_scores
from histomake.target.survival import concordance
from histomake.target.targets import UNLABELLED, is_known

LOWER_IS_BETTER = ("loss", "mae")


Figures = Callable[[np.ndarray, np.ndarray], dict[str, float]]
"""Figures of scores (n, outputs) and targets of validation patches, by name."""


class ChosenThresholds(NamedTuple):
    """Thresholds of a model, as in its card: of patches, and of slides by the way of pooling patches."""

    threshold: Threshold
    slide_thresholds: Mapping[str, Threshold]


NO_THRESHOLDS = ChosenThresholds(0.5, {})
"""Thresholds of a model that needs none."""

ChooseThresholds = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], ChosenThresholds]
"""Thresholds from scores (n, outputs), targets, slides (n,) and tissue shares (n,)."""


def exclusive_scores(logits: Tensor) -> Tensor:
    """Probabilities of logits (n, outputs, …) that sum to one."""
    return torch.softmax(logits.float(), 1)


def independent_scores(logits: Tensor) -> Tensor:
    """Probabilities of logits (n, outputs, …), each on its own."""
    return torch.sigmoid(logits.float())


def numbers(logits: Tensor) -> Tensor:
    """The outputs as they are."""
    return logits.float()


class ScoreMeter:
    """Gathers the logits of validation patches, one per output."""

    def __init__(self, activate: Callable[[Tensor], Tensor], measure: Figures, choose: ChooseThresholds) -> None:
        self.activate, self.measure, self.choose = activate, measure, choose
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add one batch."""
        self._logits.append(logits.float().cpu())
        self._targets.append(target.cpu())

    def figures(self, loss: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
        """Loss and the figures of the kind of task."""
        logits, target = torch.cat(self._logits), torch.cat(self._targets)
        return {"loss": float(loss(logits, target)), **self.measure(self.activate(logits).numpy(), target.numpy())}

    def thresholds(self, slide: np.ndarray, tissue: np.ndarray) -> ChosenThresholds:
        """Thresholds of patches and slides; ``slide`` int (n,) and ``tissue`` float (n,) of the patches in order."""
        scores = self.activate(torch.cat(self._logits)).numpy()
        return self.choose(scores, torch.cat(self._targets).numpy(), slide, tissue)


class PixelMeter:
    """Counts pixels of validation patches, in memory that does not grow with them: for segmentation."""

    def __init__(self, outputs: int, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.confusion = np.zeros((outputs, outputs), np.int64)
        self._loss = loss
        self._losses: list[float] = []

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add one batch."""
        target = target.to(logits.device).long()
        self._losses.append(float(self._loss(logits.float(), target)))
        known = target != UNLABELLED
        outputs = len(self.confusion)
        cell = target[known] * outputs + logits.argmax(1)[known]
        self.confusion += torch.bincount(cell, minlength=outputs**2).reshape(outputs, outputs).cpu().numpy()

    def figures(self, _loss: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
        """Loss, accuracy, and Dice as the mean over the classes that occur."""
        hit = np.diag(self.confusion)
        size = self.confusion.sum(0) + self.confusion.sum(1)
        dice = 2 * hit[size > 0] / size[size > 0]
        return {
            "loss": float(np.mean(self._losses)),
            "accuracy": int(hit.sum()) / max(int(self.confusion.sum()), 1),
            "dice": float(dice.mean()) if len(dice) else float("nan"),
        }

    def thresholds(self, _slide: np.ndarray, _tissue: np.ndarray) -> ChosenThresholds:
        """A pixel takes the class with the largest score, without a threshold."""
        return NO_THRESHOLDS


def classification_scores(scores: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """AUROC (macro, one against the rest), accuracy and balanced accuracy of ``scores`` (n, c), ``target`` int64 (n,).

    AUROC is NaN if there are fewer than two classes.
    """
    known = is_known(target)
    scores, target = scores[known], target[known]
    right = scores.argmax(axis=1) == target
    return {
        "auroc": _mean_auroc([target == c for c in range(scores.shape[1])], scores),
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean([right[target == c].mean() for c in np.unique(target)])),
    }


def multi_label_scores(scores: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Macro AUROC of ``scores`` (n, c) and ``target`` float (n, c) over its known values."""
    known = is_known(target)
    return {"auroc": _mean_auroc(list(target[known].T > 0.5), scores[known])}


def _mean_auroc(positive: list[np.ndarray], scores: np.ndarray) -> float:
    # Imported here, as below, because the import takes seconds and predictions need none of it.
    from sklearn.metrics import roc_auc_score

    each = [roc_auc_score(p, scores[:, c]) for c, p in enumerate(positive) if p.any() and not p.all()]
    return float(np.mean(each)) if each else float("nan")


def regression_scores(values: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Mean absolute error and R² of ``values`` and ``target``, both (n, c), over all outputs together."""
    known = ~np.isnan(target)
    error = (values - target)[known]
    centred = (target - np.nanmean(target, axis=0))[known]
    spread = float((centred**2).sum())
    r2 = 1 - float((error**2).sum()) / spread if spread > 0 else float("nan")
    return {"mae": float(np.abs(error).mean()), "r2": r2}


def survival_scores(risks: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Harrell's C-index of ``risks`` (n, 1) and times and events (n, 2); NaN if no two patients can be compared."""
    known = is_known(target)
    return {"c_index": concordance(risks[known, 0], *target[known].T)}


def median_risk(risks: np.ndarray, target: np.ndarray, slide: np.ndarray, tissue: np.ndarray) -> ChosenThresholds:
    """The median risk of the validation bags, which divides others into two groups of risk."""
    middle = float(np.median(risks))
    return ChosenThresholds(middle, dict.fromkeys(POOLINGS, middle))


def choose_threshold(score: np.ndarray, positive: np.ndarray) -> float:
    """The threshold with the largest sensitivity + specificity (Youden 1950) on validation patches.

    ``score`` float (n,), ``positive`` bool (n,). Halfway to the next lower score, so that equal scores on other
    slides are not exactly at the threshold; 0.5 if there is only one class.
    """
    if positive.all() or not positive.any():
        return 0.5
    from sklearn.metrics import roc_curve

    false_rate, true_rate, thresholds = roc_curve(positive, score)
    best = float(thresholds[1 + np.argmax(true_rate[1:] - false_rate[1:])])
    lower = score[score < best]
    return (best + float(lower.max())) / 2 if len(lower) else best


def class_thresholds(scores: np.ndarray, truth: np.ndarray, slide: np.ndarray, tissue: np.ndarray) -> ChosenThresholds:
    """Thresholds of the second of two classes: of patches, and of slides for every way of pooling their patches.

    Slides take the patches' threshold if all validation slides have the same class. With more classes the largest score
    decides, and the threshold is 0.5.
    """
    if scores.shape[1] != 2:
        return no_thresholds(scores, truth, slide, tissue)
    return ChosenThresholds(*_output_thresholds(scores[:, 1], truth == 1, slide, tissue))


def label_thresholds(scores: np.ndarray, truth: np.ndarray, slide: np.ndarray, tissue: np.ndarray) -> ChosenThresholds:
    """Thresholds of each label, as lists; see `class_thresholds`."""
    each = [_output_thresholds(scores[:, c], truth[:, c] > 0.5, slide, tissue) for c in range(scores.shape[1])]
    pooled = {how: [one.of_slides[how] for one in each] for how in POOLINGS}
    return ChosenThresholds([one.of_patches for one in each], pooled)


def no_thresholds(_scores: np.ndarray, _truth: np.ndarray, _slide: np.ndarray, _tissue: np.ndarray) -> ChosenThresholds:
    """The threshold of a model that needs none."""
    return NO_THRESHOLDS


class _OutputThresholds(NamedTuple):
    of_patches: float
    of_slides: dict[str, float]


def _output_thresholds(
    score: np.ndarray, positive: np.ndarray, slide: np.ndarray, tissue: np.ndarray
) -> _OutputThresholds:
    threshold = choose_threshold(score, positive)
    slides = [slide == s for s in np.unique(slide)]
    slide_positive = np.array([positive[members].mean() > 0.5 for members in slides])
    if slide_positive.all() or not slide_positive.any():
        return _OutputThresholds(threshold, dict.fromkeys(POOLINGS, threshold))
    chosen = {}
    for how in POOLINGS:
        pooled = np.array([pool_scores(score[m, None], how, tissue[m])[0] for m in slides])
        chosen[how] = choose_threshold(pooled, slide_positive)
    return _OutputThresholds(threshold, chosen)
