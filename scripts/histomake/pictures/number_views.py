"""Views of a regression: the value of every patch, and its difference from the true value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histomake.pictures import canvas, panel
from histomake.pictures.findings import SlideFindings

if TYPE_CHECKING:
    from numpy.typing import NDArray


def prediction(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw the value of every patch, one panel per output."""
    return [
        _values(findings, thumb, value, value_range(findings, i), f"Predicted {what}")
        for i, (what, value) in enumerate(zip(_outputs(findings), findings.scores.T, strict=True))
    ]


def truth(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw for each output the true value, the predicted value on the same scale, and their difference."""
    panels = []
    targets = findings.columns("target")
    for i, what in enumerate(_outputs(findings)):
        value, target, limits = findings.scores[:, i], targets[:, i], value_range(findings, i)
        panels.append(_values(findings, thumb, target, limits, _true_title(what, target)))
        panels.append(_values(findings, thumb, value, limits, f"Predicted {what}"))
        panels.append(_difference(findings, thumb, value - target))
    return panels


def _outputs(findings: SlideFindings) -> list[str]:
    """Return the names of the model's outputs for titles."""
    shares = bool(findings.model.target_classes)
    return [f"share of {name}" if shares else name for name in findings.classes]


def _true_title(what: str, target: NDArray[np.float64]) -> str:
    known = ~np.isnan(target)
    return f"True {what}, {known.sum():,} patches" if known.any() else f"True {what}: unknown for this slide"


def value_range(findings: SlideFindings, output: int) -> tuple[float, float]:
    """Return the ends of the colour scale: 0 and 1 for area shares, else the range of values on the slide."""
    if findings.model.target_classes:
        return 0.0, 1.0
    both = np.concatenate([findings.scores[:, output], findings.columns("target")[:, output]])
    both = both[~np.isnan(both)]
    return (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)


def _values(
    findings: SlideFindings,
    thumb: canvas.Thumbnail,
    value: NDArray[np.float64],
    limits: tuple[float, float],
    title: str,
) -> NDArray[np.uint8]:
    low, high = limits
    scaled = (value - low) / max(high - low, 1e-12)
    return panel.valued_patches(findings, thumb, scaled, title, (f"{low:.3g}", f"{high:.3g}"))


def _difference(findings: SlideFindings, thumb: canvas.Thumbnail, error: NDArray[np.float64]) -> NDArray[np.uint8]:
    known = ~np.isnan(error)
    if not known.any():
        return panel.panel(thumb.pixels, thumb, "Difference: no patch of this slide has a true value", {})
    limit = max(float(np.abs(error[known]).max()), 1e-12)
    title = f"Predicted − true; mean absolute error {np.abs(error[known]).mean():.3g}"
    ends = f"too low, −{limit:.2g}", f"too high, +{limit:.2g}"
    scaled = error / (2 * limit) + 0.5
    return panel.valued_patches(findings, thumb, scaled, title, ends, colour_map=canvas.DIFFERENCE_MAP)


PAINTERS = {"prediction": prediction, "truth": truth}
