"""Summaries of predictions for people: of a patch as text, of a slide as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from histomake.base.kinds import BACKGROUND
from histomake.target.pooling import pool_scores
from histomake.target.targets import EVENT, JOINER, TIME

if TYPE_CHECKING:
    from numpy.typing import NDArray

Row = dict[str, Any]
"""A patch in a prediction table."""

SlideTable = tuple[list[str], list[list[Any]]]
"""Header and rows."""


def class_text(row: Row, outputs: Sequence[str]) -> str:
    """Return the score of each class."""
    return ", ".join(f"{name} {row[f'score_{name}']:.2f}" for name in outputs)


def number_text(row: Row, outputs: Sequence[str]) -> str:
    """Return each number, with the true one where it is known."""
    true = {name: row[f"target_{name}"] for name in outputs}
    return ", ".join(
        f"{n} {row[f'score_{n}']:.3g}" + (f" (true {v:.3g})" if v is not None else "") for n, v in true.items()
    )


def pixel_text(row: Row, outputs: Sequence[str]) -> str:
    """Return the Dice coefficient of each class that is in the patch, in truth or in prediction."""
    parts = []
    for name in outputs:
        hit, rest = row[f"tp_{name}"], row[f"fp_{name}"] + row[f"fn_{name}"]
        if name != BACKGROUND and hit + rest:
            parts.append(f"{name}: Dice {2 * hit / (2 * hit + rest):.2f}")
    return ", ".join(parts) or "only background"


def class_table(table: pa.Table, outputs: Sequence[str], aggregate: str) -> SlideTable:
    """Return patches, their share and the slide's score per class; a patch of several classes counts for each."""
    _, pooled = _pooled(table, outputs, aggregate)
    counts: Counter[str] = Counter()
    for names in table["predicted"].cast(pa.string()).to_pylist():
        counts.update((names or "").split(JOINER))
    rows = [[name, counts[name], counts[name] / table.num_rows, float(pooled[i])] for i, name in enumerate(outputs)]
    return ["class", "patches", "share", f"slide score ({aggregate})"], rows


def bag_text(row: Row, outputs: Sequence[str]) -> str:
    """Return the percentile of attention within the slide, and what the patch contributes."""
    given = [f"{name} {row[key]:+.2g}" for name in outputs if (key := f"contribution_{name}") in row]
    return ", ".join([f"attention: percentile {100 * row['percentile']:.0f}", *given])


def bag_table(table: pa.Table, outputs: Sequence[str]) -> SlideTable:
    """Return the score of the bag per output, that of the linear baseline if there is one, and a known true number."""
    rows: list[list[Any]] = []
    columns = {"score": "score", "linear": "mean features, linear"}
    columns = {what: title for what, title in columns.items() if f"{what}_{outputs[0]}" in table.column_names}
    for name in outputs:
        values = [table[f"{what}_{name}"][0].as_py() for what in columns]
        target = table[f"target_{name}"][0].as_py() if f"target_{name}" in table.column_names else None
        rows.append([name, *values, target if target is not None else _survival(table)])
    label = table["label"][0].as_py()
    if label is not None:
        rows = [[name, *values, "yes" if name in label.split(JOINER) else ""] for name, *values, _ in rows]
    return ["output", *columns.values(), "truth"], rows


def _survival(table: pa.Table) -> str | None:
    """What happened to the patient and when, if that is the truth and known."""
    if f"target_{EVENT}" not in table.column_names or table[f"target_{EVENT}"][0].as_py() is None:
        return None
    time, event = (table[f"target_{name}"][0].as_py() for name in (TIME, EVENT))
    return f"{'event' if event else 'censored'} at {time:g}"


def number_table(table: pa.Table, outputs: Sequence[str], aggregate: str) -> SlideTable:
    """Return the slide's value per output, the distribution over its patches, and the truth where it is known."""
    scores, pooled = _pooled(table, outputs, aggregate)
    rows = []
    for i, name in enumerate(outputs):
        target = table[f"target_{name}"].drop_null().to_numpy()
        low, middle, high = (float(v) for v in np.percentile(scores[:, i], (5, 50, 95)))
        error = np.abs(scores[:, i] - table[f"target_{name}"].to_numpy(zero_copy_only=False))
        known = [float(target.mean()), float(np.nanmean(error))] if len(target) else [None, None]
        rows.append([name, float(pooled[i]), middle, f"{low:.3g} to {high:.3g}", *known])
    return ["output", f"slide ({aggregate})", "median patch", "5 to 95 % of patches", "true mean", "mean error"], rows


def pixel_table(table: pa.Table, outputs: Sequence[str], _aggregate: str) -> SlideTable:
    """Return each class's share of the patches' area and, where there is truth, its Dice coefficient on the slide."""
    rows: list[list[Any]] = []
    for name in outputs:
        hit, alarm, missed = (int(table[f"{count}_{name}"].to_numpy().sum()) for count in ("tp", "fp", "fn"))
        seen = 2 * hit + alarm + missed
        rows.append([name, float(table[f"score_{name}"].to_numpy().mean()), 2 * hit / seen if seen else None])
    return ["class", "share of the patches' area", "Dice on this slide"], rows


def _pooled(
    table: pa.Table, outputs: Sequence[str], aggregate: str
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return scores of the patches (n, outputs) and of the slide (outputs,)."""
    scores = np.stack([table[f"score_{name}"].to_numpy() for name in outputs], axis=1)
    return scores, pool_scores(scores, aggregate, table["tissue"].to_numpy())
