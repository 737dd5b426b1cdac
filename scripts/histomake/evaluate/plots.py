"""Figures of an evaluation: ROC and precision-recall curves, reliability, confusion, predicted and true values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from histomake.base.files import atomic_file
from histomake.base.kinds import Kind
from histomake.evaluate.kinds import EVALUATED
from histomake.evaluate.result import Evaluation
from histomake.evaluate.survival import GROUPS
from histomake.pictures import canvas

if TYPE_CHECKING:
    from matplotlib.typing import LegendLocType, RcKeyType

COLOURS = [f"#{bytes(colour).hex()}" for colour in canvas.PALETTE]
STYLE: dict[RcKeyType, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.prop_cycle": cycler(color=COLOURS),
}
PANEL_INCHES = 3.2
DPI = 150
MANY_DOTS = 500
"""Dots from which on they are drawn smaller."""


def figure_points(evaluation: Evaluation, *, kind: Kind) -> dict[str, pd.DataFrame]:
    """Points of every figure of the kind of task, of all levels that have items, with a column ``level``."""
    levels = [level for level, items in evaluation.items.items() if len(items)]
    if not levels:
        return {}
    found = {}
    for name, points in EVALUATED[kind].figures.items():
        parts = [part.assign(level=level) for level in levels if (part := points(evaluation, level)) is not None]
        if parts:
            found[name] = pd.concat(parts, ignore_index=True)
    return found


def draw_figures(evaluation: Evaluation, *, kind: Kind, out: Path) -> list[Path]:
    """Draw the figures of the kind of task (`EVALUATED`) into the folder ``out``; return their paths.

    Each is a PNG with one panel per level; its points are written next to it as CSV. Without items there is none.
    """
    levels = {level: items for level, items in evaluation.items.items() if len(items)}
    paths = []
    out.mkdir(parents=True, exist_ok=True)
    for name, points in figure_points(evaluation, kind=kind).items():
        with mpl.rc_context(STYLE):
            figure = Figure(figsize=(PANEL_INCHES * len(levels), PANEL_INCHES), layout="constrained")
            FigureCanvasAgg(figure)
            for axes, (level, items) in zip(
                figure.subplots(1, len(levels), squeeze=False)[0], levels.items(), strict=True
            ):
                shown = points[points.level == level]
                PANELS[name](axes, shown, evaluation, level)
                if shown.empty and not axes.texts:
                    axes.text(0.5, 0.5, "one class only: no curve", ha="center", transform=axes.transAxes)
                axes.set_title(f"{level} (n = {len(items)})")
            path = out / f"{name}.png"
            with atomic_file(path) as aside:
                figure.savefig(aside, format="png", dpi=DPI)
        with atomic_file(path.with_suffix(".csv")) as aside:
            points.to_csv(aside, index=False)
        paths.append(path)
    return paths


Panel = Callable[[Axes, pd.DataFrame, Evaluation, str], None]
"""Draws the points of one level."""


def _interval(evaluation: Evaluation, level: str, class_name: str, metric: str) -> str:
    found = evaluation.record.levels[level].metrics[class_name][metric]
    if found.value is None or found.low is None:
        return ""
    return f" {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _roc(axes: Axes, points: pd.DataFrame, evaluation: Evaluation, level: str) -> None:
    for name, curve in points.groupby("class", sort=False):
        label = name + _interval(evaluation, level, name, "auroc")
        axes.plot(curve.false_positive_rate, curve.sensitivity, label=label)
    axes.plot([0, 1], [0, 1], color="0.7", lw=0.8, ls=":")
    axes.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.02))
    _legend(axes, "lower right")


def _precision_recall(axes: Axes, points: pd.DataFrame, evaluation: Evaluation, level: str) -> None:
    for name, curve in points.groupby("class", sort=False):
        axes.plot(curve.recall, curve.precision, label=name + _interval(evaluation, level, name, "auprc"))
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    _legend(axes, "lower left")


def _reliability(axes: Axes, points: pd.DataFrame, evaluation: Evaluation, level: str) -> None:
    """Accuracy against confidence, by bin; areas of the dots follow the counts."""
    axes.plot([0, 1], [0, 1], color="0.7", lw=0.8, ls=":")
    axes.plot(points.confidence, points.accuracy, color="C0", lw=1)
    areas = 6 + 120 * points["count"] / points["count"].sum()
    axes.scatter(points.confidence, points.accuracy, areas, color="C0", clip_on=False, zorder=3)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    text = f"ECE{_interval(evaluation, level, 'all', 'ece')}"
    axes.text(0.97, 0.04, text, ha="right", fontsize=7, transform=axes.transAxes)


def _decision_curve(axes: Axes, points: pd.DataFrame, evaluation: Evaluation, level: str) -> None:
    """Net benefit of acting on the scores of each class, against acting on all items or none."""
    highest = 0.01
    for colour, (name, curve) in zip(COLOURS, points.groupby("class", sort=False), strict=False):
        axes.plot(curve.threshold, curve.net_benefit, color=colour, label=name)
        axes.plot(curve.threshold, curve.treat_all, color=colour, lw=0.8, ls="--")
        highest = max(highest, curve.net_benefit.max(), curve.treat_all.max())
    axes.plot([], [], color="0.4", lw=0.8, ls="--", label="act on all")
    axes.axhline(0, color="0.4", lw=0.8, ls=":", label="act on none")
    axes.set(xlabel="threshold probability", ylabel="net benefit", xlim=(0, 1), ylim=(-0.25 * highest, 1.1 * highest))
    _legend(axes, "best")


def _confusion(axes: Axes, points: pd.DataFrame, evaluation: Evaluation, level: str) -> None:
    names = evaluation.classes
    counts, share = (points[column].to_numpy().reshape(len(names), -1) for column in ("count", "share"))
    axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.5 else "black"
        text = f"{count}\n{share[row, column]:.0%}" if counts[row].any() else "0"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=30, ha="right")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted", ylabel="true")


def _scatter(axes: Axes, points: pd.DataFrame, evaluation: Evaluation, level: str) -> None:
    area = 4 if len(points) > MANY_DOTS else 18
    for name, dots in points.groupby("class", sort=False):
        axes.scatter(dots.true, dots.predicted, area, alpha=0.5, label=name + _interval(evaluation, level, name, "r2"))
    low, high = (pick(pick(axes.get_xlim()), pick(axes.get_ylim())) for pick in (min, max))
    axes.plot([low, high], [low, high], color="0.7", lw=0.8, ls=":")
    axes.set(xlabel="true", ylabel="predicted")
    _legend(axes, "best")


def _overlap(axes: Axes, points: pd.DataFrame, evaluation: Evaluation, level: str) -> None:
    """Dice of each class with its interval."""
    for place, row in enumerate(points.itertuples()):
        axes.plot(row.dice, place, "o", color="C0")
        axes.plot([row.low, row.high], [place, place], color="C0", lw=2)
    axes.set_yticks(range(len(points)), points["class"])
    axes.set(xlabel="Dice", xlim=(0, 1.02), ylim=(-0.5, len(points) - 0.5))


TICKS = 4
"""Times below a panel of survival for which the numbers at risk are given, at most."""


def _kaplan_meier(axes: Axes, points: pd.DataFrame, evaluation: Evaluation, level: str) -> None:
    """Survival of each group with its interval, censored patients as ticks, and below the numbers at risk."""
    end = points.time.max()
    ticks = MaxNLocator(TICKS, steps=[1, 2, 2.5, 5, 10]).tick_values(0, end)
    ticks = [tick for tick in ticks if 0 <= tick <= end]
    for place, (name, curve) in enumerate(points.groupby("group", sort=False)):
        colour = COLOURS[GROUPS.index(name)]
        axes.step(curve.time, curve.survival, where="post", color=colour, label=name)
        axes.fill_between(curve.time, curve.low, curve.high, step="post", color=colour, alpha=0.15, lw=0)
        lost = curve[curve.censored > 0]
        axes.plot(lost.time, lost.survival, "|", color=colour, ms=6)
        for tick in ticks:
            later = curve.at_risk[curve.time >= tick]
            count = int(later.iloc[0]) if len(later) else 0
            axes.annotate(
                f"{count}",
                (tick, 0),
                (0, -38 - 10 * place),
                xycoords=axes.get_xaxis_transform(),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=colour,
            )
    groups = evaluation.record.levels[level].risk_groups
    assert groups is not None
    told = f"log-rank p = {groups.log_rank_p:.2g}" if groups.log_rank_p is not None else f"no test: {groups.undefined}"
    axes.set_xticks(ticks)
    axes.set(
        xlabel=f"{evaluation.time}; below, numbers at risk",
        ylabel="share without the event",
        ylim=(0, 1.02),
        xlim=(0, None),
    )
    _legend(axes, "best", title=fill(told, 34))


def _survival_calibration(axes: Axes, points: pd.DataFrame, evaluation: Evaluation, level: str) -> None:
    """Observed against predicted shares without the event at the horizon, by group, with intervals."""
    found = evaluation.record.levels[level].at_horizon
    assert found is not None
    axes.plot([0, 1], [0, 1], color="0.7", lw=0.8, ls=":")
    known = points.dropna(subset=["low", "high"])
    axes.vlines(known.predicted, known.low, known.high, color="C0", lw=1)
    axes.plot(points.predicted, points.observed, "o", color="C0", ms=4, clip_on=False)
    told = found.no_calibration or f"at {found.time:g} ({evaluation.time})"
    axes.text(0.03, 0.9, fill(told, 34), transform=axes.transAxes, fontsize=7)
    axes.set(xlabel="predicted share without the event", ylabel="observed share", xlim=(0, 1.02), ylim=(0, 1.02))


PANELS: dict[str, Panel] = {
    "roc": _roc,
    "precision_recall": _precision_recall,
    "reliability": _reliability,
    "decision_curve": _decision_curve,
    "confusion": _confusion,
    "scatter": _scatter,
    "overlap": _overlap,
    "kaplan_meier": _kaplan_meier,
    "survival_calibration": _survival_calibration,
}


def _legend(axes: Axes, place: LegendLocType, *, title: str | None = None) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, frameon=False, fontsize=7, title=title, title_fontsize=7)
