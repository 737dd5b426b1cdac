"""Figures of cascades: the Pareto front of a threshold search, and seconds against quality."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from histomake.base.files import atomic_file

if TYPE_CHECKING:
    import pandas as pd

    from histomake.base.records.patch_cascade_metrics import PatchCascadeMetrics

NUCLEUS_COSTS = {"evaluations": "pixel evaluations", "blocks": "pixel evaluations and blocks"}
"""What the search of a nucleus cascade minimises, by its setting ``cost``."""

DEEPEST = 0.15


def draw_front(trials: pd.DataFrame, dense_f: float, path: Path | str, *, cost: str, quality: str) -> None:
    """Plot cost against quality of every set of thresholds, the Pareto front and the chosen set, as PNG."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    if trials.empty:
        axes.text(0.5, 0.5, "the given thresholds are not scored on validation slides", ha="center")
        _save(figure, path)
        return
    axes.axhline(dense_f, color="0.35", lw=1, ls="--", label="dense")
    front = trials[trials.on_front]
    for method, marker in (("coordinate", "s"), ("joint", "o")):
        rest = trials[(trials.method == method) & ~trials.on_front]
        axes.scatter(100 * (1 - rest.cost), rest.f, s=14, marker=marker, color="0.7", label=f"{method} search")
    axes.plot(100 * (1 - front.cost), front.f, "-o", ms=4, color="#c2571a", label="Pareto front")
    chosen = trials[trials.chosen].iloc[0]
    axes.scatter([100 * (1 - chosen.cost)], [chosen.f], s=130, marker="*", color="#1d5fa8", zorder=5, label="chosen")
    axes.set_xlabel(f"{cost} saved against dense, %")
    axes.set_ylabel(f"{quality}, validation patients")
    # Trials far below the dense network are never chosen and are not shown; the front ends near 0.
    low = min(max(front.f.min(), dense_f - DEEPEST), chosen.f)
    axes.set_ylim(low - 0.005, max(dense_f, front.f.max()) + 0.01)
    shown = 100 * (1 - trials.cost[trials.f >= low])
    axes.set_xlim(shown.min() - 1, shown.max() + 1)
    axes.legend(loc="lower left", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def draw_seconds(metrics: PatchCascadeMetrics, path: Path | str) -> None:
    """Plot seconds against AUROC of the thresholds of a front on test slides, with the measured dense run, as PNG."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    points = [(p.seconds, p.auroc, p.chosen) for p in metrics.front if p.auroc is not None and p.seconds is not None]
    axes.plot([p[0] for p in points], [p[1] for p in points], "-o", ms=4, color="#c2571a", label="front")
    for seconds, auroc, _ in (point for point in points if point[2]):
        axes.scatter([seconds], [auroc], s=130, marker="*", color="#1d5fa8", zorder=5, label="chosen")
    if found := metrics.metrics.get("auroc"):
        for seconds, value, marker, colour, label in (
            (metrics.seconds_dense, found.dense.value, "s", "0.35", "finest stage alone, measured"),
            (metrics.seconds_cascade, found.cascade.value, "D", "#1d5fa8", "cascade, measured"),
        ):
            axes.scatter([seconds], [value or 0.0], s=50, marker=marker, color=colour, label=label)
    else:
        axes.text(0.5, 0.5, "no test slide has patches of both kinds", ha="center", transform=axes.transAxes)
    axes.set_xlabel("seconds on the test slides, low resolution included")
    axes.set_ylabel("AUROC of patches, test patients")
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _save(figure: Figure, path: Path | str) -> None:
    with atomic_file(path) as aside:
        figure.savefig(aside, format="png", dpi=150)
