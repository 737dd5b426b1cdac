"""Rankings of predicted patches: which to explain or show, and for which reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranking:
    """Rows of a prediction table, ordered by their relevance for one reason."""

    reason: str
    rows: NDArray[np.int64]


def class_rankings(table: pa.Table, outputs: Sequence[str]) -> list[Ranking]:
    """Rank patches with one class each: misclassified, least certain, and most certain of each class."""
    scores = _scores(table, outputs)
    return _by_certainty(table, outputs, scores, scores.max(axis=1))


def label_rankings(table: pa.Table, outputs: Sequence[str]) -> list[Ranking]:
    """Rank patches with several labels as `class_rankings` does; a patch is as certain as its least certain label."""
    scores = _scores(table, outputs)
    return _by_certainty(table, outputs, scores, np.maximum(scores, 1 - scores).min(axis=1))


def number_rankings(table: pa.Table, outputs: Sequence[str]) -> list[Ranking]:
    """Rank patches with numbers: largest error, near the median, and highest and lowest of each output."""
    scores = _scores(table, outputs)
    targets = np.stack([table[f"target_{name}"].to_numpy(zero_copy_only=False) for name in outputs], axis=1)
    error = np.abs(scores - targets.astype(float))
    known = np.flatnonzero(~np.isnan(error).all(axis=1))
    worst = np.nanmax(error[known], axis=1) if len(known) else error[known, 0]
    distance = np.abs(scores - np.median(scores, axis=0)).sum(axis=1)
    return [
        Ranking("largest error", known[_largest_first(worst)]),
        Ranking("near the median", _smallest_first(distance)),
        *(Ranking(f"highest {n}", _largest_first(c)) for n, c in zip(outputs, scores.T, strict=True)),
        *(Ranking(f"lowest {n}", _smallest_first(c)) for n, c in zip(outputs, scores.T, strict=True)),
    ]


def pixel_rankings(table: pa.Table, outputs: Sequence[str]) -> list[Ranking]:
    """Rank segmented patches: most wrong pixels, most mixed, and largest share of each class."""
    scores = _scores(table, outputs)
    wrong = np.sum([table[f"fn_{name}"].to_numpy() for name in outputs], axis=0)
    some = np.flatnonzero(wrong)
    return [
        Ranking("most pixels wrong", some[_largest_first(wrong[some])]),
        Ranking("most mixed", _smallest_first(scores.max(axis=1))),
        *(Ranking(f"most {name}", _largest_first(c)) for name, c in zip(outputs, scores.T, strict=True)),
    ]


def attention_rankings(
    table: pa.Table, outputs: Sequence[str], *, bag: str = "slide_id", exclusive: bool = False
) -> list[Ranking]:
    """Rank patches of bags: highest and lowest attention for the size of the bag, and contribution to each output.

    ``bag``: column that names the bag of each patch. ``exclusive``: whether a bag has exactly one of the outputs.
    """
    _, inverse, counts = np.unique(_names(table, bag), return_inverse=True, return_counts=True)
    # An attention of 1 / n would be that of a patch among n equal ones.
    value = table["attention"].to_numpy() * counts[inverse]
    found = [
        Ranking("highest attention", _largest_first(value)),
        Ranking("lowest attention", _smallest_first(value)),
    ]
    for name, given in _contributions(table, outputs, exclusive=exclusive).items():
        found += [
            Ranking(f"highest contribution to {name}", _largest_first(given * counts[inverse])),
            Ranking(f"lowest contribution to {name}", _smallest_first(given * counts[inverse])),
        ]
    return found


def _contributions(table: pa.Table, outputs: Sequence[str], *, exclusive: bool) -> dict[str, NDArray[np.floating]]:
    """Contributions of patches by output, if there are any; of two exclusive outputs, the difference to the first."""
    if f"contribution_{outputs[0]}" not in table.column_names:
        return {}
    given = {name: table[f"contribution_{name}"].to_numpy() for name in outputs}
    if exclusive and len(outputs) == 2:
        # Only the difference of two logits matters to the score.
        first, second = outputs
        return {second: given[second] - given[first]}
    return given


def right_and_wrong(table: pa.Table, outputs: Sequence[str]) -> list[Ranking]:
    """Rank labelled patches: right and most certain of each class, right and least certain, wrong and most certain."""
    label, predicted = _names(table, "label"), _names(table, "predicted")
    known = np.array([name is not None for name in label], bool)
    right, certainty = label == predicted, _scores(table, outputs).max(axis=1)

    def ranked(reason: str, members: NDArray[np.bool_], *, surest: bool) -> Ranking:
        rows = np.flatnonzero(members)
        order = _largest_first(certainty[rows]) if surest else _smallest_first(certainty[rows])
        return Ranking(f"{reason} ({len(rows):,} in all)", rows[order])

    return [
        *(ranked(f"{name}, right and most certain", right & (label == name), surest=True) for name in outputs),
        ranked("right, least certain", right & known, surest=False),
        ranked("wrong, most certain first", ~right & known, surest=True),
    ]


def _by_certainty(
    table: pa.Table, outputs: Sequence[str], scores: NDArray[np.floating], certainty: NDArray[np.floating]
) -> list[Ranking]:
    label, predicted = _names(table, "label"), _names(table, "predicted")
    wrong = np.flatnonzero([a is not None and a != b for a, b in zip(label, predicted, strict=True)])
    return [
        Ranking("misclassified", wrong[_largest_first(certainty[wrong])]),
        Ranking("least certain", _smallest_first(certainty)),
        *(Ranking(f"surest {n}", _largest_first(c)) for n, c in zip(outputs, scores.T, strict=True)),
    ]


def _scores(table: pa.Table, outputs: Sequence[str]) -> NDArray[np.floating]:
    return np.stack([table[f"score_{name}"].to_numpy() for name in outputs], axis=1)


def _names(table: pa.Table, column: str) -> NDArray[np.object_]:
    return np.array(table[column].cast(pa.string()).to_pylist(), object)


def _largest_first(values: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.argsort(-values, kind="stable")


def _smallest_first(values: NDArray[np.floating]) -> NDArray[np.int64]:
    return np.argsort(values, kind="stable")
