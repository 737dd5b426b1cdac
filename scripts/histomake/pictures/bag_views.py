"""Views of a slide that is predicted as part of a bag: attention, and what patches contribute to each output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from histomake.pictures import canvas, chosen_view, panel
from histomake.pictures.findings import SlideFindings

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN_QUANTILE = 0.99
"""Contributions are scaled so that this share of them fits into the colours."""


def attention(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw the percentile of attention, contributions if pooling is additive, chosen patches, and the annotation."""
    table = findings.predictions
    percentile = table["percentile"].to_numpy().astype(np.float64)
    panels = [
        panel.valued_patches(findings, thumb, percentile, f"Attention: {_result(findings)}", ("lowest", "highest"))
    ]
    panels += [_contributions(findings, thumb, name) for name in shown_outputs(findings)]
    return [*panels, *chosen_view.chosen(findings, thumb), panel.annotated_classes(findings, thumb)]


def _result(findings: SlideFindings) -> str:
    """The scores of the bag."""
    if not findings.predictions.num_rows:
        return "no patch"
    scores = findings.scores[0]
    return ", ".join(f"{name} {score:.2f}" for name, score in zip(findings.classes, scores, strict=True))


def shown_outputs(findings: SlideFindings) -> list[str]:
    """Outputs whose contributions are drawn: of two classes that exclude each other only the second."""
    if f"contribution_{findings.classes[0]}" not in findings.predictions.column_names:
        return []
    return findings.classes[1:] if findings.is_binary else findings.classes


def _contributions(findings: SlideFindings, thumb: canvas.Thumbnail, name: str) -> NDArray[np.uint8]:
    shares, ends, total = contrast(findings, findings.predictions, name)
    title = f"Contribution to {name}: {total:+.2f} over the slide"
    return panel.valued_patches(findings, thumb, shares, title, ends, colour_map=canvas.DIFFERENCE_MAP)


def contrast(findings: SlideFindings, table: pa.Table, name: str) -> tuple[NDArray[np.float64], tuple[str, str], float]:
    """Contributions to an output in the n rows of a table.

    Returns float64 (n,) from 0 (lowers it most) over 0.5 (none) to 1 (raises it most), texts of the two ends, and the
    sum. Of two classes that exclude each other, it is the difference to the contributions to the first.
    """
    value = table[f"contribution_{name}"].to_numpy().astype(np.float64)
    if findings.is_binary:
        # Only the difference of two logits matters to the score.
        value = value - table[f"contribution_{findings.classes[0]}"].to_numpy()
    largest = max(float(np.quantile(np.abs(value), SHOWN_QUANTILE)), 1e-12) if len(value) else 1.0
    ends = f"lowers it, −{largest:.2g}", f"raises it, +{largest:.2g}"
    return np.clip(value / (2 * largest) + 0.5, 0, 1), ends, float(value.sum())


PAINTERS = {"attention": attention}
