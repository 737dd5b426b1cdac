"""Views of a segmentation: the class of every pixel, and differences from the annotation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histomake.base.kinds import BACKGROUND
from histomake.pictures import canvas, panel
from histomake.pictures.findings import SlideFindings

if TYPE_CHECKING:
    from numpy.typing import NDArray


def prediction(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw every pixel in the colour of its class, with the area of each class."""
    found, names = predicted(findings, thumb), _drawn(findings)
    colours = findings.colours
    painted = canvas.paint_labels(thumb.pixels, found, {i + 1: colours[n] for i, n in enumerate(names)})
    legend = {
        f"{name} ({(found == i + 1).sum() * thumb.mpp**2 / 1e6:.3g} mm²)": colours[name] for i, name in enumerate(names)
    }
    return [panel.panel(painted, thumb, "Predicted class of every tissue pixel", legend)]


def truth(findings: SlideFindings, thumb: canvas.Thumbnail) -> list[NDArray[np.uint8]]:
    """Draw the annotation, the prediction, and for each class the differences between them."""
    panels = [panel.annotated(findings, thumb), *prediction(findings, thumb)]
    if not findings.annotated:
        panels.append(panel.panel(thumb.pixels, thumb, "Errors: this slide is not annotated", {}))
        return panels
    found, true, known = predicted(findings, thumb), true_labels(findings, thumb), known_pixels(findings, thumb)
    for i, name in enumerate(_drawn(findings)):
        here, meant = known & (found == i + 1), known & (true == i + 1)
        if here.any() or meant.any():
            panels.append(_errors(thumb, name, here, meant))
    if len(panels) == 2:
        panels.append(panel.panel(thumb.pixels, thumb, "Errors: no class in annotation or prediction", {}))
    return panels


def _drawn(findings: SlideFindings) -> list[str]:
    """Return the classes that are drawn, all except background."""
    return [name for name in findings.classes if name != BACKGROUND]


def predicted(findings: SlideFindings, thumb: canvas.Thumbnail) -> NDArray[np.uint8]:
    """Return 0 for background or not predicted and i + 1 for the i-th class, on the thumbnail's pixels."""
    if not findings.predictions.num_rows:
        return np.zeros(thumb.pixels.shape[:2], np.uint8)
    return findings.predicted_labels(thumb)


def true_labels(findings: SlideFindings, thumb: canvas.Thumbnail) -> NDArray[np.uint8]:
    """Return the annotation in the numbers of the model's classes: 0 unlabelled, i + 1 the i-th class."""
    lookup = np.zeros(len(findings.annotation.class_names) + 1, np.uint8)
    for i, name in enumerate(_drawn(findings)):
        if name in findings.annotation.class_names:
            lookup[findings.annotation.class_names.index(name) + 1] = i + 1
    return lookup[findings.annotated_labels(thumb)]


def known_pixels(findings: SlideFindings, thumb: canvas.Thumbnail) -> NDArray[np.bool_]:
    """Return the pixels to evaluate: predicted ones and, unless background is a class, only those with a label."""
    inside = canvas.covered(thumb, findings.patches)
    return inside if findings.classes[0] == BACKGROUND else inside & (true_labels(findings, thumb) > 0)


def _errors(thumb: canvas.Thumbnail, name: str, found: NDArray[np.bool_], true: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Draw true positives, false negatives and false positives of one class, and the Dice of the drawn pixels."""
    kinds = np.zeros(found.shape, np.uint8)
    kinds[found & true], kinds[~found & true], kinds[found & ~true] = 1, 2, 3
    colours = {1: canvas.RIGHT, 2: canvas.MISSED, 3: canvas.FALSE_ALARM}
    painted = thumb.pixels
    for value, colour in colours.items():
        painted = canvas.blend(painted, np.full_like(painted, colour), kinds == value, canvas.OPACITY)
    dice = 2 * (found & true).sum() / (found.sum() + true.sum())
    texts = (f"{name}: true positive", f"{name}: false negative", f"{name}: false positive")
    return panel.panel(
        painted,
        thumb,
        f"{name}: Dice {dice:.3f} at {thumb.mpp:.3g} µm/px",
        dict(zip(texts, colours.values(), strict=True)),
    )


PAINTERS = {"prediction": prediction, "truth": truth}
