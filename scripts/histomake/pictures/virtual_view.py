"""Picture of a virtual slide beside the scanned one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histomake.base.records.manifest import Manifest, VirtualStain
from histomake.base.units import Mpp
from histomake.pictures import canvas
from histomake.slide.reader import open_slide

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EDGE_PX = 760
"""Longest edge of each of the two pictures."""


def virtual_view(scanned: Path, virtual: Path, mark: VirtualStain) -> NDArray[np.uint8]:
    """Draw the slide as scanned and in the other stain, marked as in silico; paths are of manifests.

    Both have the resolution at which the virtual slide, the coarser one, fits.
    """
    mpp: Mpp | None = None
    pictures: list[NDArray[np.uint8]] = []
    for manifest, title in ((virtual, mark.label.upper()), (scanned, f"{mark.stains[0]}, as scanned")):
        with open_slide(manifest) as reader:
            mpp = mpp or Mpp(reader.mpp * max(1.0, max(reader.width, reader.height) / EDGE_PX))
            thumb = canvas.thumbnail(reader, mpp)
        pictures.insert(0, canvas.with_legend(canvas.with_scale_bar(thumb.pixels, thumb.mpp), title, {}))
    return canvas.headed(canvas.beside(pictures), f"{Manifest.read_usable(scanned).slide_id}, {mark.label}")
