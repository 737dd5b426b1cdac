"""Panels used in the views of all kinds of task: coloured patches, annotations, score maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from histomake.pictures import canvas
from histomake.pictures.findings import SlideFindings

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCORE_OPACITY = 0.75


def panel(
    pixels: NDArray[np.uint8],
    thumb: canvas.Thumbnail,
    title: str,
    legend: Mapping[str, canvas.Colour],
    *,
    scale: tuple[str, str] | None = None,
    colour_map: str = canvas.SCORE_MAP,
) -> NDArray[np.uint8]:
    """Add a scale bar, a title and a legend to an image."""
    barred = canvas.with_scale_bar(pixels, thumb.mpp)
    return canvas.with_legend(barred, title, legend, scale=scale, colour_map=colour_map)


def named_patches(
    findings: SlideFindings,
    thumb: canvas.Thumbnail,
    names: NDArray[np.object_],
    colours: Mapping[str, canvas.Colour],
) -> NDArray[np.uint8]:
    """Draw every patch in the colour of its name; patches without a name are not drawn."""
    known = np.array([name is not None for name in names], bool)
    patches = findings.middles
    chosen = canvas.Patches(patches.x[known], patches.y[known], patches.span)
    paint = np.array([colours[name] for name in names[known]], np.uint8).reshape(-1, 3)
    return canvas.paint_patches(thumb, thumb.pixels, chosen, paint)


def valued_patches(
    findings: SlideFindings,
    thumb: canvas.Thumbnail,
    values: NDArray[np.floating],
    title: str,
    ends: tuple[str, str],
    *,
    colour_map: str = canvas.SCORE_MAP,
) -> NDArray[np.uint8]:
    """Draw a panel with every patch in the colour of its value in [0, 1]; NaN is not drawn."""
    known = ~np.isnan(values)
    patches = findings.middles
    chosen = canvas.Patches(patches.x[known], patches.y[known], patches.span)
    colours = canvas.score_colours(values[known], colour_map)
    painted = canvas.paint_patches(thumb, thumb.pixels, chosen, colours, opacity=SCORE_OPACITY)
    return panel(painted, thumb, title, {}, scale=ends, colour_map=colour_map)


def annotated(findings: SlideFindings, thumb: canvas.Thumbnail) -> NDArray[np.uint8]:
    """Draw a panel of the annotation, in the classes of the model."""
    names = findings.annotation.class_names
    shown = {name: colour for name, colour in findings.colours.items() if name in names}
    if not findings.annotated:
        return panel(thumb.pixels, thumb, "Annotation: this slide is not annotated", {})
    numbers = {names.index(name) + 1: colour for name, colour in shown.items()}
    drawn = canvas.paint_labels(thumb.pixels, findings.annotated_labels(thumb), numbers)
    return panel(drawn, thumb, "Annotation", shown)


def annotated_classes(findings: SlideFindings, thumb: canvas.Thumbnail) -> NDArray[np.uint8]:
    """Draw a panel of the annotation in all its classes, whatever the outputs of the model."""
    names = findings.annotation.class_names
    if not findings.annotated:
        return panel(thumb.pixels, thumb, "Annotation: this slide is not annotated", {})
    colours = canvas.class_colours(names)
    numbers = dict(enumerate(colours.values(), 1))
    drawn = canvas.paint_labels(thumb.pixels, findings.annotated_labels(thumb), numbers)
    return panel(drawn, thumb, "Annotation", colours)


def arranged(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Arrange panels in rows of two, so that their text is readable at the width of a page."""
    return canvas.in_rows(panels, 2)


def counted(names: NDArray[np.object_], colours: Mapping[str, canvas.Colour]) -> dict[str, canvas.Colour]:
    """Return a legend with the number of patches of each name."""
    return {f"{name}: {(names == name).sum():,}": colour for name, colour in colours.items()}
