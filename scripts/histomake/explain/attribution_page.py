"""Figure of attributions: one row of panels per patch, with a heatmap per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from histomake.explain.attribution import Attribution
from histomake.target.targets import JOINER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

HEAT = "PuOr_r"
"""Orange raises the score, violet lowers it. People with colour vision deficiencies can distinguish the two."""
SMOOTH_SHARE = 0.012
"""Sigma of the heatmap's Gaussian smoothing, as a share of the patch edge. Without it, gradients look like noise."""


def panels(found: Attribution, *, patch_um: float) -> Figure:
    """Draw one row per patch: the patch, then one heatmap per class with its score. Each row has one colour scale."""
    count, classes = len(found.pixels), len(found.classes)
    figure = Figure(figsize=(2.5 * (classes + 1) + 1.2, 2.75 * count + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Patches of {patch_um:g} µm; orange raises the score above, violet lowers it", fontsize=9)
    axes = figure.subplots(count, classes + 1, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for row, info in zip(range(count), found.table.to_pylist(), strict=True):
        left = axes[row, 0]
        left.imshow(found.pixels[row])
        left.set_title(f"{info['slide_id']}  ({info['x']}, {info['y']})\n{info['reason']}; {_truth(info)}", fontsize=7)
        smooth = [gaussian_filter(m, SMOOTH_SHARE * m.shape[0]) for m in found.maps[row]]
        limit = float(np.percentile(np.abs(smooth), 99.5)) or 1.0
        grey = found.pixels[row].mean(axis=2)
        predicted = (info["predicted"] or "").split(JOINER)
        for axis, heat, name in zip(axes[row, 1:], smooth, found.classes, strict=True):
            shown = _draw_heat(axis, grey, heat, limit)
            called = "  (predicted)" if name in predicted else ""
            axis.set_title(f"{name}: {info[f'score_{name}']:.3f}{called}", fontsize=8)
        bar = figure.colorbar(shown, ax=axes[row, 1:].tolist(), shrink=0.8, ticks=[-limit, 0, limit])
        bar.ax.set_yticklabels(["lowers", "0", "raises"], fontsize=7)
    return figure


def text_figure(lines: Sequence[str]) -> Figure:
    """A figure with text, used in place of panels that cannot be drawn."""
    figure = Figure(figsize=(9, 0.6 + 0.35 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.text(0.02, 0.95, "\n".join(lines), fontsize=8, va="top", wrap=True)
    return figure


def _truth(info: dict[str, Any]) -> str:
    """Ground truth of a patch: its label, or its true values."""
    targets = [f"{value:.3g}" for name, value in info.items() if name.startswith("target_") and value is not None]
    if targets:
        return f"true: {', '.join(targets)}"
    return "no label" if info["label"] is None else f"annotated: {info['label'] or 'none'}"


def _draw_heat(axis: Axes, grey: NDArray[np.floating], heat: NDArray[np.floating], limit: float) -> AxesImage:
    axis.imshow(grey, cmap="gray", vmin=0, vmax=255)
    return axis.imshow(heat, cmap=HEAT, vmin=-limit, vmax=limit, alpha=0.72)
