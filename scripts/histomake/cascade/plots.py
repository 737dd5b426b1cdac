"""Figure of a cascade's threshold search: the Pareto front of cost and F."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from histomake.base.files import atomic_file

if TYPE_CHECKING:
    import pandas as pd

COSTS = {"evaluations": "pixel evaluations", "blocks": "pixel evaluations and blocks"}
DEEPEST = 0.15


def draw_front(trials: pd.DataFrame, dense_f: float, cost: str, path: Path) -> None:
    """Plot cost against F of every set of thresholds, the Pareto front and the chosen set, as PNG."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(dense_f, color="0.35", lw=1, ls="--", label="dense, level 1 everywhere")
    front = trials[trials.on_front]
    for method, marker in (("coordinate", "s"), ("joint", "o")):
        rest = trials[(trials.method == method) & ~trials.on_front]
        axes.scatter(100 * (1 - rest.cost), rest.f, s=14, marker=marker, color="0.7", label=f"{method} search")
    axes.plot(100 * (1 - front.cost), front.f, "-o", ms=4, color="#c2571a", label="Pareto front")
    chosen = trials[trials.chosen].iloc[0]
    axes.scatter([100 * (1 - chosen.cost)], [chosen.f], s=130, marker="*", color="#1d5fa8", zorder=5, label="chosen")
    axes.set_xlabel(f"{COSTS[cost]} saved against level 1 everywhere, %")
    axes.set_ylabel("mean of pixel F and nucleus F, validation patients")
    # Trials far below the dense network are never chosen and are not shown; the front ends near 0.
    low = min(max(front.f.min(), dense_f - DEEPEST), chosen.f)
    axes.set_ylim(low - 0.005, max(dense_f, front.f.max()) + 0.01)
    shown = 100 * (1 - trials.cost[trials.f >= low])
    axes.set_xlim(shown.min() - 1, shown.max() + 1)
    axes.legend(loc="lower left", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as aside:
        figure.savefig(aside, format="png", dpi=150)
