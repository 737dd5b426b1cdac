"""Heads by name: how they are built, and how those that need no training loop are fitted and chosen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from histomake.base.errors import HistomakeError
from histomake.config import Task
from histomake.learn.heads.networks import Head, LayeredHead, LinearHead, NeighbourHead, Scaled
from histomake.learn.inference.validation import LOWER_IS_BETTER
from histomake.learn.kinds import TRAINED, Loss, OnFeatures

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

SMALLEST_DEVIATION = 1e-6
"""Deviation of a feature below which it is constant, and not scaled."""

ROWS = 1024
"""Patches whose logits are computed at once."""


@dataclass(frozen=True)
class HeadSamples:
    """Patches to learn from or to validate with.

    features: float32 (n, d). target: as in PatchIndex. weight: float64 (n,), shares of the draws. slide: int (n,) and
    tissue: float (n,), for thresholds.
    """

    features: NDArray[np.float32]
    target: NDArray[Any]
    weight: NDArray[np.float64]
    slide: NDArray[np.int32]
    tissue: NDArray[np.float32]


@dataclass(frozen=True)
class ChosenHead:
    """The head that is best on validation patches, what was chosen, and a row per candidate for the history."""

    head: Head
    chosen: dict[str, float]
    step: int
    figures: dict[str, float]
    thresholds: dict[str, Any]
    history: list[dict[str, float]]


def on_features(task: Task) -> OnFeatures:
    """How the task's kind is learned from features. Raises HistomakeError if it needs pixels."""
    found = TRAINED[task.kind].on_features
    if found is None:
        raise HistomakeError(f"a task of kind {task.kind} needs pixels, not features")
    return found


def build_head(task: Task, *, inputs: int, outputs: int, rows: int = 1) -> Head:
    """Build the head of a task, with random or empty weights; ``rows``: training patches that knn remembers."""
    builders: dict[str, Callable[[], Head]] = {
        "linear": lambda: LinearHead(inputs, outputs),
        "mlp": lambda: LayeredHead(inputs, outputs, hidden=task.probe.hidden, dropout=task.probe.dropout),
        "knn": lambda: NeighbourHead(inputs, outputs, rows=rows, as_logits=on_features(task).as_logits),
    }
    return builders[task.head]()


def set_scale(head: Scaled, features: NDArray[np.float32], weight: NDArray[np.float64]) -> None:
    """Take mean and deviation of training patches, weighted as they are drawn."""
    share = (weight / weight.sum())[:, None]
    mean = (share * features).sum(0)
    deviation = np.sqrt((share * (features - mean) ** 2).sum(0))
    deviation[deviation < SMALLEST_DEVIATION] = 1
    head.mean.copy_(torch.from_numpy(mean.astype(np.float32)))
    head.deviation.copy_(torch.from_numpy(deviation.astype(np.float32)))


def choose_linear(task: Task, train: HeadSamples, val: HeadSamples, *, outputs: int, loss: Loss) -> ChosenHead:
    """Fit a linear head with every penalty, and take the best one."""
    head = LinearHead(train.features.shape[1], outputs)
    set_scale(head, train.features, train.weight)
    scaled = head.scale(torch.from_numpy(train.features)).numpy()

    def candidates() -> Iterator[dict[str, float]]:
        for penalty in sorted(task.probe.penalties, reverse=True):
            weights, biases = on_features(task).linear(scaled, train.target, train.weight, penalty)
            with torch.no_grad():
                head.layer.weight.copy_(torch.from_numpy(weights))
                head.layer.bias.copy_(torch.from_numpy(biases))
            yield {"penalty": penalty}

    return _best(task, head, candidates(), train, val, outputs=outputs, loss=loss)


def choose_neighbours(task: Task, train: HeadSamples, val: HeadSamples, *, outputs: int, loss: Loss) -> ChosenHead:
    """Remember the training patches, and take the best number of neighbours."""
    how = on_features(task)
    head = NeighbourHead(train.features.shape[1], outputs, rows=len(train.features), as_logits=how.as_logits)
    set_scale(head, train.features, train.weight)
    head.remember(torch.from_numpy(train.features), torch.from_numpy(how.values(train.target, outputs)))

    def candidates() -> Iterator[dict[str, float]]:
        for neighbours in sorted(set(task.probe.neighbours), reverse=True):
            head.neighbours.fill_(neighbours)
            yield {"neighbours": neighbours}

    return _best(task, head, candidates(), train, val, outputs=outputs, loss=loss)


CHOOSERS = {"linear": choose_linear, "knn": choose_neighbours}
"""Heads that are fitted at once; the others are trained step by step."""


def _best(
    task: Task,
    head: Head,
    candidates: Iterator[dict[str, float]],
    train: HeadSamples,
    val: HeadSamples,
    *,
    outputs: int,
    loss: Loss,
) -> ChosenHead:
    """The candidate with the best validation figure; of equal ones the first, which is the smoothest."""
    select, found = task.train.select, list[ChosenHead]()
    history: list[dict[str, float]] = []
    for step, chosen in enumerate(candidates, 1):
        meter = TRAINED[task.kind].meter(outputs, loss)
        meter.update(logits_of(head, val.features), torch.from_numpy(val.target))
        figures = meter.figures(loss)
        if np.isnan(figures[select]):
            raise HistomakeError(
                f"train.select: {select} is not defined on the validation patches (only one class?); choose another "
                "figure, or stratify the split"
            )
        fitted = float(loss(logits_of(head, train.features), torch.from_numpy(train.target)))
        named = {f"val_{name}": value for name, value in figures.items()}
        history.append({"step": step, **chosen, "train_loss": fitted, **named})
        log.info("%s: %s", task.head, history[-1])
        kept = {name: tensor.clone() for name, tensor in head.state_dict().items()}
        thresholds = meter.thresholds(val.slide, val.tissue)._asdict()
        choice = ChosenHead(head, chosen, step, figures, thresholds, history)
        if not found or _score(figures[select], select) > _score(found[0].figures[select], select):
            found, best = [choice], kept
    head.load_state_dict(best)
    return found[0]


def _score(value: float, name: str) -> float:
    return -value if name in LOWER_IS_BETTER else value


@torch.inference_mode()
def logits_of(head: Head, features: NDArray[np.float32]) -> Tensor:
    """Logits float32 (n, outputs) of features (n, d), n > 0.

    The order of additions in a library depends on the number of rows. With a constant number, the logits of a patch are
    the same to the last bit, independent of the others.
    """
    filled = np.pad(features, ((0, -len(features) % ROWS), (0, 0)), mode="edge")
    parts = torch.from_numpy(filled).to(head.mean.device).split(ROWS)
    return torch.cat([head(part).cpu() for part in parts])[: len(features)]
