"""Map of the nuclei that virtual slides have and scanned ones do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from histomake.base.records.transfer_measures import SlideStructure, TransferMeasures
from histomake.base.units import Mpp
from histomake.generate.held_out import Box, HeldOut
from histomake.pictures import canvas
from histomake.slide.reader import SlideReader, open_slide

if TYPE_CHECKING:
    from numpy.typing import NDArray

EDGE_PX = 560
"""Longest edge of each picture."""

MOST_SLIDES = 6
"""Slides that are drawn, those with the most invented nuclei per mm²."""

LEAST_SCALE = 100.0
"""Invented nuclei per mm² at the end of the colour scale, at least, so that a few are not drawn like many."""


def invented_map(
    record: TransferMeasures, slides: Sequence[HeldOut], invented: Mapping[str, tuple[list[Box], list[int]]]
) -> NDArray[np.uint8]:
    """Draw the slides with the most invented nuclei, as scanned and in silico, their patches coloured by these.

    Args:
        record: The measures.
        slides: The held-out slides.
        invented: Boxes of the patches in pixels of the virtual slide, and invented nuclei in each, by slide.
    """
    heading = f"in silico: {record.stains[0]} to {record.stains[1]} by {record.transfer}"
    counted = [s for s in record.structures if s.transfer is not None and s.area_mm2]
    if not counted:
        reason = "the grid is too coarse for nuclei" if record.structures else "no slide could be measured"
        return canvas.card([heading, f"There is no map of invented nuclei: {reason}."])
    shown = sorted(counted, key=lambda s: -_per_mm2(s))[:MOST_SLIDES]
    by_slide = {slide.entry.slide_id: slide for slide in slides}
    rows = []
    for structure in shown:
        slide = by_slide[structure.slide_id]
        with open_slide(slide.virtual) as virtual, open_slide(slide.entry.manifest) as scanned:
            rows.append(_row(structure, virtual, scanned, *invented[structure.slide_id]))
    drawn = f"{heading}: nuclei of the virtual slide that the scanned one does not have, {len(shown)} of "
    return canvas.headed(canvas.in_rows(rows, 1), f"{drawn}{len(record.structures)} held-out slides")


def _row(
    structure: SlideStructure, virtual: SlideReader, scanned: SlideReader, boxes: list[Box], counts: list[int]
) -> NDArray[np.uint8]:
    """The scanned slide, the virtual one, and the map on it."""
    mpp = Mpp(virtual.mpp * max(1.0, max(virtual.width, virtual.height) / EDGE_PX))
    thumb, before = canvas.thumbnail(virtual, mpp), canvas.thumbnail(scanned, mpp)
    scale = virtual.levels[0].downsample
    size = boxes[0][2] * scale
    density = np.array(counts) / (size * virtual.mpp) ** 2 * 1e6
    end = max(float(density.max()), LEAST_SCALE)
    left, top = (scale * np.array([box[axis] for box in boxes]) for axis in (0, 1))
    patches = canvas.Patches(left, top, size)
    painted = canvas.paint_patches(thumb, thumb.pixels, patches, canvas.score_colours(density / end))
    title = f"{structure.slide_id}: {_per_mm2(structure):,.0f} invented nuclei per mm² of tissue"
    return canvas.beside(
        [
            canvas.with_legend(canvas.with_scale_bar(before.pixels, before.mpp), "as scanned", {}),
            canvas.with_legend(canvas.with_scale_bar(thumb.pixels, thumb.mpp), "IN SILICO", {}),
            canvas.with_legend(painted, title, {}, scale=("0 per mm²", f"{end:,.0f}")),
        ]
    )


def _per_mm2(structure: SlideStructure) -> float:
    """Invented nuclei per mm² of a slide with nuclei and tissue."""
    match = structure.transfer
    return 0.0 if match is None else match.invented / structure.area_mm2
