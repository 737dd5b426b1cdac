"""Owns the views of a classifier that gives every patch any number of classes: one panel per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histomake.pictures import canvas, panel
from histomake.pictures.findings import SlideFindings
from histomake.target.targets import JOINER

if TYPE_CHECKING:
    from numpy.typing import NDArray


def prediction(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Per class, the patches that have it, says the model."""
    colours = findings.colours
    panels = []
    for name, called, threshold in zip(
        findings.classes, has(findings, "predicted").T, findings.model["threshold"], strict=True
    ):
        names = np.array([name if has_class else None for has_class in called], object)
        painted = panel.named_patches(findings, thumb, names, colours)
        legend = {f"{name} ({called.sum():,} of {len(called):,} patches)": colours[name]}
        panels.append(panel.panel(painted, thumb, f"Predicted: {name}, called from {threshold:.2f}", legend))
    return panels


def confidence(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """The score of every class."""
    return [
        panel.valued_patches(findings, thumb, score, f"Score of {name}", ("0", "1"))
        for name, score in zip(findings.classes, findings.scores.T, strict=True)
    ]


def truth(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """What annotators drew, and per class where the model finds it, misses it, and calls it where it is not."""
    label, predicted = has(findings, "label"), has(findings, "predicted")
    known = np.array([name is not None for name in findings.names("label")], bool)
    panels = [panel.annotated(findings, thumb)]
    if not known.any():
        bare = panel.panel(thumb.pixels, thumb, "Errors: no patch of this slide has a label", {})
        return [*panels, bare]
    legend = {"found": canvas.RIGHT, "missed": canvas.MISSED, "called where it is not": canvas.FALSE_ALARM}
    for i, name in enumerate(findings.classes):
        kinds = np.full(len(known), None, object)
        for what, where in (
            ("found", label[:, i] & predicted[:, i]),
            ("missed", label[:, i] & ~predicted[:, i]),
            ("called where it is not", ~label[:, i] & predicted[:, i]),
        ):
            kinds[known & where] = what
        painted = panel.named_patches(findings, thumb, kinds, legend)
        title = f"{name}; of {known.sum():,} labelled patches those with it, in truth or in prediction"
        panels.append(panel.panel(painted, thumb, title, panel.counted(kinds, legend)))
    return panels


def has(findings: SlideFindings, column: str) -> NDArray[np.bool_]:
    """Which classes every patch has by its ``predicted`` or ``label``: bool (n, classes)."""
    members = [set((names or "").split(JOINER)) for names in findings.names(column)]
    return np.array([[name in found for name in findings.classes] for found in members], bool).reshape(
        len(members), len(findings.classes)
    )


PAINTERS = {"prediction": prediction, "confidence": confidence, "truth": truth}
