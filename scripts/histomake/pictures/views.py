"""Views of one slide for the pathologist, drawn for the kind of task and written as images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from histomake.base.records.record import Quarantined
from histomake.base.units import Mpp
from histomake.pictures import canvas, panel
from histomake.pictures.findings import SlideFindings
from histomake.pictures.kinds import painters_of

if TYPE_CHECKING:
    from histomake.pictures.kinds import Painter

REGION_PX = 760
"""Longest edge of the panels of a region."""


def draw_views(findings: SlideFindings, *, mpp: Mpp, out: dict[str, Path]) -> None:
    """Draw the views named in ``out`` at ``mpp`` µm per pixel and write each to its path."""
    thumb = canvas.thumbnail(findings.reader, mpp)
    painters = _painters(findings)
    for view, path in out.items():
        picture = panel.arranged(painters[view](findings, thumb))
        canvas.write_picture(canvas.headed(picture, _heading(findings, thumb)), path)


def draw_region(findings: SlideFindings, box: canvas.Box, path: Path) -> None:
    """Draw a part of a slide with its annotation, prediction and errors.

    ``box``: x, y, width and height in level-0 pixels.
    """
    thumb = canvas.region(findings.reader, box, REGION_PX)
    bare = panel.panel(thumb.pixels, thumb, "Slide", {})
    # The last view is the one that shows most: annotation and prediction, or attention.
    *_, closest = _painters(findings).values()
    picture = panel.arranged([bare, *closest(findings, thumb)])
    place = "x {}, y {}, {} x {} level-0 px".format(*box)
    canvas.write_picture(canvas.headed(picture, f"{_heading(findings, thumb)}; {place}"), path)


def draw_quarantine(entry: Quarantined, out: dict[str, Path]) -> None:
    """Write, in place of every view, an image with the reason for the quarantine."""
    for path in out.values():
        canvas.write_picture(canvas.quarantine_card(entry), path)


def _painters(findings: SlideFindings) -> Mapping[str, Painter]:
    bag = findings.model.bag
    return painters_of(findings.kind, bags=bag is not None, graphs=bag is not None and bag.graph is not None)


def _heading(findings: SlideFindings, thumb: canvas.Thumbnail) -> str:
    grid = findings.slide_grid.grid
    stride = grid.stride or grid.size
    every = f"every {stride * grid.mpp:g} µm " if stride < grid.size else ""
    return (
        f"{findings.table.slide_id} at {thumb.mpp:.3g} µm/px; patches of {grid.size * grid.mpp:g} µm {every}"
        f"read at {grid.mpp:g} µm/px"
    )
