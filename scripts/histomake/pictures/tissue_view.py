"""Image of a slide's tissue mask and artefacts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histomake.base.units import Mpp
from histomake.pictures import canvas
from histomake.pictures.panel import panel
from histomake.tissue.artefacts import BLUR, FOLD, NAMES, PEN, ArtefactMap
from histomake.tissue.mask import TissueMask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

ARTEFACTS = {PEN: (0, 114, 178), BLUR: (230, 159, 0), FOLD: (204, 121, 167)}
TISSUE = (0, 158, 115)


def tissue_view(
    reader: SlideReader, mask: TissueMask, artefacts: ArtefactMap, *, slide_id: str, mpp: Mpp
) -> NDArray[np.uint8]:
    """Draw the slide at ``mpp`` µm per pixel, and beside it its tissue, pen, blur and folds."""
    thumb = canvas.thumbnail(reader, mpp)
    downsample = (mask.downsample_x, mask.downsample_y)
    found = canvas.spread(thumb, mask.mask.astype(np.uint8), downsample)
    painted = canvas.paint_labels(thumb.pixels, found, {1: TISSUE})
    painted = canvas.paint_labels(painted, canvas.spread(thumb, artefacts.labels, downsample), ARTEFACTS)
    shares = artefacts.record.shares
    legend = {f"tissue, {mask.record.area_mm2:.2f} mm²": TISSUE}
    legend |= {f"{NAMES[kind]} ({shares[NAMES[kind]]:.1%})": colour for kind, colour in ARTEFACTS.items()}
    panels = [panel(thumb.pixels, thumb, "Slide", {}), panel(painted, thumb, "Tissue and artefacts", legend)]
    return canvas.headed(canvas.beside(panels), f"{slide_id} at {thumb.mpp:.3g} µm/px")
