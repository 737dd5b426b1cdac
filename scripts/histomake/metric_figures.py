"""Owns the figures of an evaluation: ROC and precision-recall curves, reliability, confusion, predicted and true."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from histomake import measure
from histomake.config import Target
from histomake.files import atomic_file
from histomake.metrics import Evaluation, Items

FONT = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10}
PANEL_INCHES = 3.2
DPI = 150
CURVE_POINTS = 1000
"""Points of a curve that are drawn; more cannot be seen."""

MAX_DOTS = 5000
"""Dots of a scatter plot, evenly taken from all of them."""


def draw_figures(evaluation: Evaluation, *, kind: str, target: Target, out: Path) -> list[Path]:
    """Draw what fits the kind of task into the folder ``out`` as PNG; returns the files.

    Classification: roc, precision_recall, reliability and, unless a patch may have several labels, confusion;
    regression: scatter; segmentation: overlap. One panel per level.
    """
    panels = _panels(kind, target)
    levels = {level: items for level, items in evaluation.items.items() if len(items)}
    paths = []
    for name, draw in panels.items():
        with mpl.rc_context(FONT):
            figure = Figure(figsize=(PANEL_INCHES * len(levels), PANEL_INCHES), layout="constrained")
            FigureCanvasAgg(figure)
            for axes, (level, items) in zip(
                figure.subplots(1, len(levels), squeeze=False)[0], levels.items(), strict=True
            ):
                draw(axes, items, evaluation, level)
                axes.set_title(f"{level} (n = {len(items)})")
            path = out / f"{name}.png"
            with atomic_file(path) as aside:
                figure.savefig(aside, format="png", dpi=DPI)
        paths.append(path)
    return paths


Panel = Callable[[Axes, Items, Evaluation, str], None]


def _panels(kind: str, target: Target) -> dict[str, Panel]:
    if kind == "segmentation":
        return {"overlap": _overlap}
    if kind == "regression":
        return {"scatter": _scatter}
    panels: dict[str, Panel] = {"roc": _roc, "precision_recall": _precision_recall, "reliability": _reliability}
    return panels if target.multi_label else panels | {"confusion": _confusion}


def _drawn_classes(items: Items, classes: list[str]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, truth bool (n,) and score (n,) of each class worth a curve: of two classes only the positive one."""
    found = []
    for i, name in enumerate(classes):
        if len(classes) == 2 and items.target.ndim == 1 and i == 0:
            continue
        known = np.ones(len(items), bool) if items.target.ndim == 1 else ~np.isnan(items.target[:, i])
        truth = items.target == i if items.target.ndim == 1 else items.target[:, i] > 0.5
        if truth[known].any() and not truth[known].all():
            found.append((name, truth[known], items.score[known, i]))
    return found


def _thin(*curve: np.ndarray) -> list[np.ndarray]:
    chosen = np.unique(np.linspace(0, len(curve[0]) - 1, CURVE_POINTS).astype(int))
    return [line[chosen] for line in curve]


def _interval(evaluation: Evaluation, level: str, class_name: str, metric: str) -> str:
    row = evaluation.record["levels"][level]["metrics"][class_name][metric]
    if row["value"] is None or row["low"] is None:
        return ""
    return f" {row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _roc(axes: Axes, items: Items, evaluation: Evaluation, level: str) -> None:
    for name, truth, score in _drawn_classes(items, evaluation.classes):
        false, true, _ = roc_curve(truth, score)
        axes.plot(*_thin(false, true), label=name + _interval(evaluation, level, name, "auroc"))
    axes.plot([0, 1], [0, 1], color="0.7", lw=0.8, ls=":")
    axes.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.02))
    _legend(axes, "lower right")


def _precision_recall(axes: Axes, items: Items, evaluation: Evaluation, level: str) -> None:
    for name, truth, score in _drawn_classes(items, evaluation.classes):
        precision, recall, _ = precision_recall_curve(truth, score)
        axes.plot(*_thin(recall, precision), label=name + _interval(evaluation, level, name, "auprc"))
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    _legend(axes, "lower left")


def _reliability(axes: Axes, items: Items, evaluation: Evaluation, level: str) -> None:
    """Accuracy against confidence, by bin; areas of the dots follow the counts (Guo et al. 2017, figure 1)."""
    if items.target.ndim == 1:
        confidence, right = items.score.max(1), items.score.argmax(1) == items.target
    else:
        known = ~np.isnan(items.target)
        score = items.score[known]
        confidence, right = np.maximum(score, 1 - score), (score > 0.5) == (items.target[known] > 0.5)
    one = np.zeros(len(confidence), np.int64)
    count, sums, hits = measure.calibration_sums(confidence, right, one, np.ones((1, 1)))[0]
    seen = count > 0
    axes.plot([0, 1], [0, 1], color="0.7", lw=0.8, ls=":")
    axes.plot(sums[seen] / count[seen], hits[seen] / count[seen], color="C0", lw=1)
    axes.scatter(sums[seen] / count[seen], hits[seen] / count[seen], 6 + 120 * count[seen] / count.sum(), color="C0")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.text(0.03, 0.95, f"ECE{_interval(evaluation, level, 'all', 'ece')}", va="top", transform=axes.transAxes)


def _confusion(axes: Axes, items: Items, evaluation: Evaluation, level: str) -> None:
    counts = np.array(evaluation.record["levels"][level]["confusion"])
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count}\n{share[row, column]:.0%}", ha="center", va="center", color=colour)
    ticks = range(len(evaluation.classes))
    axes.set_xticks(ticks, evaluation.classes, rotation=30, ha="right")
    axes.set_yticks(ticks, evaluation.classes)
    axes.set(xlabel="predicted", ylabel="true")


def _scatter(axes: Axes, items: Items, evaluation: Evaluation, level: str) -> None:
    for i, name in enumerate(evaluation.classes):
        known = np.flatnonzero(~np.isnan(items.target[:, i]))
        shown = known[:: max(1, len(known) // MAX_DOTS)]
        label = name + _interval(evaluation, level, name, "r2")
        axes.scatter(items.target[shown, i], items.score[shown, i], 4, alpha=0.5, label=label)
    low, high = (pick(pick(axes.get_xlim()), pick(axes.get_ylim())) for pick in (min, max))
    axes.plot([low, high], [low, high], color="0.7", lw=0.8, ls=":")
    axes.set(xlabel="true", ylabel="predicted")
    _legend(axes, "best")


def _overlap(axes: Axes, items: Items, evaluation: Evaluation, level: str) -> None:
    """Dice of each class with its interval."""
    rows = [evaluation.record["levels"][level]["metrics"][name]["dice"] for name in evaluation.classes]
    for place, row in enumerate(rows):
        if row["value"] is not None:
            axes.plot(row["value"], place, "o", color="C0")
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [place, place], color="C0", lw=2)
    axes.set_yticks(range(len(rows)), evaluation.classes)
    axes.set(xlabel="Dice", xlim=(0, 1.02), ylim=(-0.5, len(rows) - 0.5))


def _legend(axes: Axes, place: str) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, frameon=False, fontsize=7)
