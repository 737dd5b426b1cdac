"""Consensus of several readers, for each combination of their labels: majority, or STAPLE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histomake.annotation.patterns import Patterns
from histomake.base.records.consensus import ConsensusMethod

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1e-7
"""Estimates that change by less are taken as final."""

MOST_ITERATIONS = 1000

FIRST_GUESS = 0.99999
"""Probability of a right label from which STAPLE starts, as proposed by Warfield et al. (2004)."""

TIE = 1e-6
"""Probabilities that differ by less are equal."""


@dataclass(frozen=True)
class Consensus:
    """Consensus of each combination of labels.

    labels: uint8 (n,), 0 for no class; undecided: bool (n,), where several labels are equally likely, so that there is
    none; sensitivity: float64 (readers, labels), the estimated probability that a reader gives a pixel of a label this
    label, NaN for labels without pixels; None if it is not estimated. iterations: of the estimate.
    """

    labels: NDArray[np.uint8]
    undecided: NDArray[np.bool_]
    sensitivity: NDArray[np.float64] | None = None
    iterations: int = 0


def majority(patterns: Patterns) -> Consensus:
    """The label of most readers, where no class is a label too. A tie has no class."""
    return Consensus(*_decided(patterns.votes().astype(np.float64)))


def staple(patterns: Patterns) -> Consensus:
    """The most likely label, from the estimated performance of each reader.

    Simultaneous truth and performance level estimation for several labels (Warfield, Zou and Wells, IEEE Transactions
    on Medical Imaging 23, 2004): expectation maximisation over the hidden true labels and a confusion matrix of each
    reader. The prior of a label is its mean share among the readers.
    """
    pixels, size = patterns.pixels.astype(np.float64), len(patterns.names) + 1
    given = patterns.labels[:, :, None] == np.arange(size)  # (n, readers, labels)
    prior = pixels @ patterns.votes() / (pixels.sum() * patterns.readers)
    wrong = (1 - FIRST_GUESS) / max(size - 1, 1)
    matrices = np.full((patterns.readers, size, size), wrong)  # reader, label given, true label
    matrices[:, np.arange(size), np.arange(size)] = FIRST_GUESS
    truth, iterations, change = _truth(given, matrices, prior), 0, np.inf
    while change >= TOLERANCE and iterations < MOST_ITERATIONS:
        before, matrices = matrices, _matrices(given, pixels, truth)
        truth = _truth(given, matrices, prior)
        iterations, change = iterations + 1, float(np.abs(matrices - before).max())
    sensitivity = matrices[:, np.arange(size), np.arange(size)].copy()
    sensitivity[:, pixels @ truth == 0] = np.nan
    return Consensus(*_decided(truth), sensitivity, iterations)


def _truth(given: NDArray[np.bool_], matrices: NDArray[np.float64], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of each true label (n, labels), equation 9 of the paper: the step of expectation."""
    with np.errstate(divide="ignore"):
        of_readers = np.log((given[:, :, :, None] * matrices).sum(axis=2))  # (n, readers, true label)
        likely = np.log(prior) + of_readers.sum(axis=1)
    highest = likely.max(axis=1, keepdims=True)
    # A combination that the matrices exclude for every label keeps the prior.
    weights = np.where(np.isfinite(highest), np.exp(likely - np.where(np.isfinite(highest), highest, 0)), prior)
    return weights / weights.sum(axis=1, keepdims=True)


def _matrices(given: NDArray[np.bool_], pixels: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Confusion matrix of each reader (readers, label given, true label): the step of maximisation."""
    weights = pixels[:, None] * truth
    found = np.einsum("nrl,nt->rlt", given.astype(np.float64), weights)
    total = weights.sum(axis=0)
    return np.divide(found, total, out=np.zeros_like(found), where=total > 0)


def _decided(likely: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The most likely label of each row, 0 for a tie; and which rows are ties."""
    if not likely.size:
        return np.zeros(0, np.uint8), np.zeros(0, bool)
    undecided = (likely >= likely.max(axis=1, keepdims=True) - TIE).sum(axis=1) > 1
    return np.where(undecided, 0, likely.argmax(axis=1)).astype(np.uint8), undecided


CONSENSUS_OF: dict[ConsensusMethod, Callable[[Patterns], Consensus]] = {"majority": majority, "staple": staple}
"""How a consensus is made."""
