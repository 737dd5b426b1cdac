"""The metadata of a patch table."""

from __future__ import annotations

from typing import Any, ClassVar

from histomake.base.records.record import PositiveMpp, SlideSize, StageRecord


class PatchTableRecord(StageRecord, frozen=True, kw_only=True):
    """The slide and the grid of a patch table, in the Parquet schema's metadata under the key ``histomake``."""

    NAME: ClassVar[str] = "patch table record"
    REMEDY: ClassVar[str] = "Delete the table and run the workflow again, which writes a new one"

    sha256: str
    """sha256 of the slide file, as in the manifest."""
    width: SlideSize
    """Width of the slide, in level-0 pixels."""
    height: SlideSize
    """Height of the slide, in level-0 pixels."""
    mpp: PositiveMpp
    """Resolution of the slide, in µm per pixel."""
    grid_name: str
    """Name of the grid in the configuration."""
    grid: dict[str, Any]
    """The grid's section of the configuration, ``grids.<name>``."""
