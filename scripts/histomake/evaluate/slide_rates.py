"""Rates of the patches or pixels of one slide, with errors by drawing its patches.

As PathFlowAI reports them (Levy et al. 2020, Table 1): accuracy, sensitivity, specificity and AUC with the standard
error of a non-parametric bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from histomake.evaluate import statistics
from histomake.evaluate.items import Items, SlidePrediction, pixel_counts
from histomake.evaluate.operating import Judged, decisions, judged, judged_outputs

if TYPE_CHECKING:
    from numpy.typing import NDArray

EVERY_CLASS = "all"
"""Name of the class of what is measured over all classes."""

DRAWN_AT_ONCE = 100
"""Bootstrap samples of a segmented slide that are drawn at once: each is a count per patch."""


class ClassRates(NamedTuple):
    """Rates of one class against the rest: ``values`` by name, each (1 + bootstraps,), the slide's own first.

    ``items``: patches of known truth, or pixels; ``positives``: those of the class, none over all classes.
    """

    class_name: str
    items: int
    positives: int | None
    values: dict[str, NDArray[np.floating]]


SlideRates = Callable[[SlidePrediction, Items, Sequence[str], np.random.Generator, int], list[ClassRates]]
"""Rates of a slide, from its prediction, the items of its patches or pixels, the names of the outputs, a generator and
the number of bootstrap samples."""


def patch_rates(
    prediction: SlidePrediction, items: Items, names: Sequence[str], rng: np.random.Generator, bootstraps: int
) -> list[ClassRates]:
    """Rates of the patches of a slide, of each class against the rest; of two exclusive classes of the second one.

    Of more exclusive classes also the accuracy over all. Neighbouring patches are alike, but are drawn independently,
    so that errors are too small where the patches of a slide are many.
    """
    called = decisions(items, len(names))
    found = []
    for number, name in judged_outputs(items, names):
        one, known = judged(items, number)
        if len(one.score):
            values = _drawn_rates(one, called[known, number], rng, bootstraps)
            found.append(ClassRates(name, len(one.score), int(one.positive.sum()), values))
    if items.target.ndim == 1 and len(names) > 2 and len(items):
        right = int((items.predicted == items.target).sum())
        drawn = rng.binomial(len(items), right / len(items), size=bootstraps)
        accuracy = np.concatenate([[right], drawn]) / len(items)
        found.append(ClassRates(EVERY_CLASS, len(items), None, {"accuracy": accuracy}))
    return found


def _drawn_rates(
    one: Judged, called: NDArray[np.bool_], rng: np.random.Generator, bootstraps: int
) -> dict[str, NDArray[np.floating]]:
    """Rates (1 + bootstraps,) of n items and of samples of n of them.

    Items of the same score, truth and decision are drawn together: a sample is a multinomial count of these.
    """
    edges = statistics.score_edges(one.score)
    rank = statistics.score_ranks(one.score, edges)
    cell = (rank * 2 + one.positive) * 2 + called
    filled, count = np.unique(cell, return_counts=True)
    drawn = np.zeros((1 + bootstraps, 4 * len(edges)))
    drawn[0, filled] = count
    drawn[1:, filled] = rng.multinomial(len(cell), count / len(cell), size=bootstraps)
    counts = drawn.reshape(-1, len(edges), 2, 2)
    confusion, by_truth = counts.sum(1), counts.sum(3)
    rates = statistics.rates(confusion, 1)
    return {
        "accuracy": statistics.overall(confusion)["accuracy"],
        **{name: rates[name] for name in ("sensitivity", "specificity")},
        "auroc": statistics.area_under_roc(by_truth[:, :, 1], by_truth[:, :, 0]),
    }


def pixel_rates(
    prediction: SlidePrediction, items: Items, names: Sequence[str], rng: np.random.Generator, bootstraps: int
) -> list[ClassRates]:
    """Rates of the pixels of a segmented slide, of each class against the rest, and the accuracy over all classes.

    Patches are drawn, not pixels. Of two classes, only the second one has rates.
    """
    counts = pixel_counts(prediction.table, names)
    counts = counts[counts[:, :, [0, 2]].sum((1, 2)) > 0]
    if not len(counts):
        return []
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    sums: list[NDArray[Any]] = [flat.sum(0)[None]]
    for start in range(0, bootstraps, DRAWN_AT_ONCE):
        size = min(DRAWN_AT_ONCE, bootstraps - start)
        sums.append(rng.multinomial(len(flat), np.full(len(flat), 1 / len(flat)), size=size) @ flat)
    each, whole = statistics.pixel_rates(np.concatenate(sums).reshape(-1, len(names), 3))
    pixels = int(counts[:, :, [0, 2]].sum())
    found = []
    for number, name in judged_outputs(items, names):
        found.append(ClassRates(name, pixels, int(counts[:, number, [0, 2]].sum()), each[number]))
    return [*found, ClassRates(EVERY_CLASS, pixels, None, whole)] if len(names) > 2 else found
