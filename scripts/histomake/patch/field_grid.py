"""The grid that places the fields of view of a generator on slides; its images may be smaller than grids allow."""

from __future__ import annotations

from histomake.base.units import Mpp, PatchPixels
from histomake.config import Generator, Grid

GRID_EDGE = 16
GRID_MPP = 64
"""Least edge in pixels and largest µm per pixel of a grid."""


def field_grid(generator: Generator) -> Grid:
    """The grid whose cells are fields of a generator: at its largest size, or at more pixels if that is no grid.

    Cells overlap by half, and lie inside the slide.
    """
    size, finer = generator.sizes[-1], 1
    while size < GRID_EDGE or generator.field_um / size > GRID_MPP:
        size, finer = 2 * size, 2 * finer
    return Grid(
        size=PatchPixels(size),
        mpp=Mpp(generator.field_um / size),
        stride=PatchPixels(size // 2),
        min_tissue=generator.tissue,
        max_upsampling=1.1 * finer,
        border="drop",
    )


def grid_name(generator: str) -> str:
    """The name of this grid in paths. Names of the configuration have no dot."""
    return f"fields.{generator}"
