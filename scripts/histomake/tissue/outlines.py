"""Outlines of tissue, for programs that take polygons and not masks."""

from __future__ import annotations

import numpy as np
import shapely

from histomake.tissue.mask import TissueMask


def outlines(tissue: TissueMask) -> list[shapely.Polygon]:
    """The pieces of tissue as polygons with holes, in level-0 pixels, along the edges of the mask's pixels.

    Pixels that touch at a corner only belong to different pieces. The list is empty if the mask is.
    """
    edges = np.diff(np.pad(tissue.mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    # Lines are merged in whole numbers, so that neighbours share their corners exactly.
    runs = shapely.box(starts, rows, ends, rows + 1)
    area = shapely.simplify(shapely.union_all(runs), 0)  # removes the corners of runs on straight lines
    scale = np.array([tissue.downsample_x, tissue.downsample_y])
    return list(shapely.get_parts(shapely.transform(area, lambda corners: corners * scale)))
