"""Views of a classifier with any number of classes per patch: one panel per class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histomake.pictures import canvas, panel
from histomake.pictures.findings import SlideFindings
from histomake.target.targets import JOINER

if TYPE_CHECKING:
    from numpy.typing import NDArray


def prediction(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw, for each class, the patches predicted to have it."""
    colours = findings.colours
    panels = []
    thresholds = np.broadcast_to(findings.model.threshold, len(findings.classes))
    for name, called, threshold in zip(findings.classes, has(findings, "predicted").T, thresholds, strict=True):
        names = np.array([name if has_class else None for has_class in called], object)
        painted = panel.named_patches(findings, thumb, names, colours)
        legend = {f"{name} ({called.sum():,} of {len(called):,} patches)": colours[name]}
        panels.append(panel.panel(painted, thumb, f"Predicted: {name}, threshold {threshold:.2f}", legend))
    return panels


def confidence(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw the score of every class."""
    return [
        panel.valued_patches(findings, thumb, score, f"Score of {name}", ("0", "1"))
        for name, score in zip(findings.classes, findings.scores.T, strict=True)
    ]


def truth(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw the annotation, and for each class true positives, false negatives and false positives."""
    label, predicted = has(findings, "label"), has(findings, "predicted")
    known = np.array([name is not None for name in findings.names("label")], bool)
    panels = [panel.annotated(findings, thumb)]
    if not known.any():
        bare = panel.panel(thumb.pixels, thumb, "Errors: no patch of this slide has a label", {})
        return [*panels, bare]
    legend = {"true positive": canvas.RIGHT, "false negative": canvas.MISSED, "false positive": canvas.FALSE_ALARM}
    for i, name in enumerate(findings.classes):
        kinds = np.full(len(known), None, object)
        for what, where in (
            ("true positive", label[:, i] & predicted[:, i]),
            ("false negative", label[:, i] & ~predicted[:, i]),
            ("false positive", ~label[:, i] & predicted[:, i]),
        ):
            kinds[known & where] = what
        painted = panel.named_patches(findings, thumb, kinds, legend)
        title = f"{name}: patches with this label or prediction, of {known.sum():,} labelled patches"
        panels.append(panel.panel(painted, thumb, title, panel.counted(kinds, legend)))
    return panels


def has(findings: SlideFindings, column: str) -> NDArray[np.bool_]:
    """Return the classes of every patch in the column ``predicted`` or ``label``: bool (n, classes)."""
    members = [set((names or "").split(JOINER)) for names in findings.names(column)]
    return np.array([[name in found for name in findings.classes] for found in members], bool).reshape(
        len(members), len(findings.classes)
    )


PAINTERS = {"prediction": prediction, "confidence": confidence, "truth": truth}
