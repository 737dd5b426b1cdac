"""Owns the pictures of a cascade: the Pareto front of its thresholds, and what every level did on a slide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import zarr
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from histomake.cascade.run import ACCEPTED, COMPUTED, REJECTED
from histomake.files import atomic_file

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

COLOURS = {REJECTED: (226, 228, 232), COMPUTED: (240, 158, 60), ACCEPTED: (58, 110, 190)}
NAMES = {REJECTED: "rejected", COMPUTED: "computed", ACCEPTED: "accepted"}
OUTLINE = (0, 150, 70)
COSTS = {"evaluations": "pixel evaluations", "blocks": "pixel evaluations and blocks"}
PANEL_PX = 640
DEEPEST = 0.15


def draw_front(trials: pd.DataFrame, dense_f: float, cost: str, path: Path) -> None:
    """Cost against F of every threshold set tried, the front, and the chosen one; PNG."""
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
    # Far below the dense network nobody chooses: the front ends somewhere near 0.
    low = min(max(front.f.min(), dense_f - DEEPEST), chosen.f)
    axes.set_ylim(low - 0.005, max(dense_f, front.f.max()) + 0.01)
    shown = 100 * (1 - trials.cost[trials.f >= low])
    axes.set_xlim(shown.min() - 1, shown.max() + 1)
    axes.legend(loc="lower left", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as aside:
        figure.savefig(aside, format="png", dpi=150)


def draw_nothing(outcome: dict[str, Any], path: Path) -> None:
    """The picture that stands in place of a quarantined slide's: why there is none; PNG."""
    figure = Figure(figsize=(8, 1.2))
    figure.text(0.02, 0.5, f"{outcome['slide_id']} is in quarantine: {outcome['detail']}", fontsize=9, wrap=True)
    with atomic_file(path) as aside:
        figure.savefig(aside, format="png", dpi=130)


def draw_levels(reader: SlideReader, store: Path, record: dict[str, Any], path: Path) -> None:
    """The slide with the nuclei found, and one map per level of what was computed, accepted, rejected; PNG.

    ``store``: what `histomake.cascade.infer.segment_slide` wrote; ``record``: what it returned.
    """
    group = zarr.open_group(store, mode="r")
    states = [np.asarray(group[f"state{level['level']}"]) for level in record["levels"]]
    height, width = group["labels"].shape
    scale = min(1.0, PANEL_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    columns = 3
    rows = -(-(len(states) + 1) // columns)
    figure = Figure(figsize=(4 * columns, 0.35 + rows * (4 * size[1] / size[0] + 0.3)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    axes[0].imshow(_with_outlines(reader, group, size))
    axes[0].set_title(f"{record['slide_id']}: {record['nuclei']} nuclei", fontsize=9)
    for panel, state, level in zip(axes[1:], reversed(states), reversed(record["levels"]), strict=False):
        panel.imshow(_in_colour(state, size))
        shares = ", ".join(f"{NAMES[s]} {level[NAMES[s]]:.1%}" for s in (COMPUTED, ACCEPTED, REJECTED))
        panel.set_title(f"level {level['level']}: {shares}", fontsize=8)
    for panel in axes:
        panel.set_axis_off()
    handles = [Patch(color=np.array(c) / 255, label=NAMES[s]) for s, c in COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(f"{record['saved']:.1%} of pixel evaluations saved", fontsize=10)
    with atomic_file(path) as aside:
        figure.savefig(aside, format="png", dpi=130)


def _with_outlines(reader: SlideReader, group: zarr.Group, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The slide at panel size, with the found nuclei outlined."""
    mpp = reader.mpp * max(reader.width / size[0], reader.height / size[1])
    picture = cv2.resize(reader.read_whole(mpp), size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize((np.asarray(group["labels"]) > 0).astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.ascontiguousarray(picture), contours, -1, OUTLINE, 1)


def _in_colour(state: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    palette = np.array([COLOURS[s] for s in (REJECTED, COMPUTED, ACCEPTED)], np.uint8)
    shrink = size[0] < state.shape[1]
    return cv2.resize(palette[state], size, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_NEAREST)
