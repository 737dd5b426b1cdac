"""Views of a classifier with one class per patch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histomake.pictures import canvas, panel
from histomake.pictures.findings import SlideFindings

if TYPE_CHECKING:
    from numpy.typing import NDArray


def prediction(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw every patch in the colour of its predicted class."""
    colours = findings.colours
    names = findings.names("predicted")
    painted = panel.named_patches(findings, thumb, names, colours)
    legend = {f"{name} ({(names == name).sum():,} patches)": colours[name] for name in findings.classes}
    return [panel.panel(painted, thumb, "Predicted class of every patch", legend)]


def confidence(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw the score of the second of two classes, and the confidence of the prediction.

    With more classes the first panel shows the largest score. Confidence is 1 - entropy / log(number of classes).
    """
    scores = findings.scores
    two = scores.shape[1] == 2
    value = scores[:, 1] if two else scores.max(axis=1, initial=0)
    called = f"Score of {findings.classes[1]}, threshold {findings.model.threshold:.2f}"
    entropy = -(scores * np.log(np.clip(scores, 1e-9, 1))).sum(axis=1) / np.log(scores.shape[1])
    return [
        panel.valued_patches(findings, thumb, value, called if two else "Largest score", ("0", "1")),
        panel.valued_patches(
            findings, thumb, 1 - entropy, "Confidence: 1 − normalised entropy of the scores", ("low", "high")
        ),
    ]


def truth(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw the annotation, the prediction, and the differences between them."""
    colours = findings.colours
    predicted = panel.named_patches(findings, thumb, findings.names("predicted"), colours)
    return [
        panel.annotated(findings, thumb),
        panel.panel(predicted, thumb, "Predicted", colours),
        errors(findings, thumb),
    ]


def errors(findings: SlideFindings, thumb: canvas.Thumbnail) -> NDArray[np.uint8]:
    """Draw correct and wrong predictions; for two classes, false negatives and false positives of the second."""
    label, predicted = findings.names("label"), findings.names("predicted")
    known = np.array([name is not None for name in label], bool)
    if not known.any():
        return panel.panel(thumb.pixels, thumb, "Errors: no patch of this slide has a label", {})
    right = label == predicted
    kinds = np.where(right, "correct", "wrong").astype(object)
    legend = {"correct": canvas.RIGHT, "wrong": canvas.FALSE_ALARM}
    if len(findings.classes) == 2:
        positive = findings.classes[1]
        missed, alarm = f"{positive}: false negative", f"{positive}: false positive"
        kinds[~right & (label == positive)], kinds[~right & (label != positive)] = missed, alarm
        legend = {"correct": canvas.RIGHT, missed: canvas.MISSED, alarm: canvas.FALSE_ALARM}
    kinds[~known] = None
    painted = panel.named_patches(findings, thumb, kinds, legend)
    title = f"Errors: {right[known].mean():.1%} of the slide's {known.sum():,} labelled patches are correct"
    return panel.panel(painted, thumb, title, panel.counted(kinds, legend))


PAINTERS = {"prediction": prediction, "confidence": confidence, "truth": truth}
