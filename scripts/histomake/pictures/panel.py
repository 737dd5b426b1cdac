"""Owns the panels that views of all kinds of task are made of: painted patches, annotations, score maps, errors."""

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
    """A picture with its scale bar, title and legend."""
    barred = canvas.with_scale_bar(pixels, thumb.mpp)
    return canvas.with_legend(barred, title, legend, scale=scale, colour_map=colour_map)


def named_patches(
    findings: SlideFindings,
    thumb: canvas.Thumbnail,
    names: NDArray[np.object_],
    colours: Mapping[str, canvas.Colour],
) -> NDArray[np.uint8]:
    """Every patch in the colour of its name; those without a name are left bare."""
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
    """A panel of every patch in the colour of its value on [0, 1]; NaN is left bare."""
    known = ~np.isnan(values)
    patches = findings.middles
    chosen = canvas.Patches(patches.x[known], patches.y[known], patches.span)
    colours = canvas.score_colours(values[known], colour_map)
    painted = canvas.paint_patches(thumb, thumb.pixels, chosen, colours, opacity=SCORE_OPACITY)
    return panel(painted, thumb, title, {}, scale=ends, colour_map=colour_map)


def annotated(findings: SlideFindings, thumb: canvas.Thumbnail) -> NDArray[np.uint8]:
    """A panel of what annotators drew, in the classes of the model."""
    names = findings.annotation.class_names
    shown = {name: colour for name, colour in findings.colours.items() if name in names}
    if not findings.annotated:
        return panel(thumb.pixels, thumb, "Annotated: nobody annotated this slide", {})
    numbers = {names.index(name) + 1: colour for name, colour in shown.items()}
    drawn = canvas.paint_labels(thumb.pixels, findings.annotated_labels(thumb), numbers)
    return panel(drawn, thumb, "Annotated", shown)


def arranged(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Panels two in a row: what is written under them can be read where the picture is as wide as a page."""
    return canvas.in_rows(panels, 2)


def counted(names: NDArray[np.object_], colours: Mapping[str, canvas.Colour]) -> dict[str, canvas.Colour]:
    """A legend with how many patches have each name."""
    return {f"{name}: {(names == name).sum():,}": colour for name, colour in colours.items()}
