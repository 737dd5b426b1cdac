"""Views of a slide that is predicted as part of a bag: attention, and what patches contribute to each output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histomake.pictures import canvas, panel
from histomake.pictures.findings import SlideFindings

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN_QUANTILE = 0.99
"""Contributions are scaled so that this share of them fits into the colours."""


def attention(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw the percentile of attention, the contributions to each output if pooling is additive, and the annotation."""
    table = findings.predictions
    percentile = table["percentile"].to_numpy().astype(np.float64)
    panels = [
        panel.valued_patches(findings, thumb, percentile, f"Attention: {_result(findings)}", ("lowest", "highest"))
    ]
    for name in _shown(findings):
        panels.append(_contributions(findings, thumb, name))
    return [*panels, panel.annotated_classes(findings, thumb)]


def _result(findings: SlideFindings) -> str:
    """The scores of the bag."""
    if not findings.predictions.num_rows:
        return "no patch"
    scores = findings.scores[0]
    return ", ".join(f"{name} {score:.2f}" for name, score in zip(findings.classes, scores, strict=True))


def _shown(findings: SlideFindings) -> list[str]:
    """Outputs whose contributions are drawn: of two classes that exclude each other only the second."""
    if f"contribution_{findings.classes[0]}" not in findings.predictions.column_names:
        return []
    return findings.classes[1:] if findings.is_binary else findings.classes


def _contributions(findings: SlideFindings, thumb: canvas.Thumbnail, name: str) -> NDArray[np.uint8]:
    value = findings.columns("contribution")[:, findings.classes.index(name)]
    if findings.is_binary:
        # Only the difference of two logits matters to the score.
        value = value - findings.columns("contribution")[:, 0]
    largest = max(float(np.quantile(np.abs(value), SHOWN_QUANTILE)), 1e-12) if len(value) else 1.0
    return panel.valued_patches(
        findings,
        thumb,
        np.clip(value / (2 * largest) + 0.5, 0, 1),
        f"Contribution to {name}: {value.sum():+.2f} over the slide",
        (f"lowers it, −{largest:.2g}", f"raises it, +{largest:.2g}"),
        colour_map=canvas.DIFFERENCE_MAP,
    )


PAINTERS = {"attention": attention}
