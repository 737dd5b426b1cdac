"""The metadata of the table of the cores of a tissue microarray."""

from __future__ import annotations

from typing import ClassVar

from histomake.base.records.record import Positive, Size, StageRecord


class CoreTableRecord(StageRecord, frozen=True, kw_only=True):
    """The grid of cores of a slide, in the Parquet schema's metadata under the key ``histomake``."""

    NAME: ClassVar[str] = "core table record"
    REMEDY: ClassVar[str] = "Delete the table and run the workflow again, which writes a new one"

    sha256: str
    """sha256 of the slide file, as in the manifest."""
    core_mm: Positive
    """Diameter of a core as configured, in mm."""
    rows: Size
    """Rows of the grid, from the first one with a core to the last."""
    columns: Size
    """Columns of the grid, from the first one with a core to the last."""
    degrees: float
    """Rotation of the rows against the edge of the slide, in degrees, clockwise."""
    missing: tuple[str, ...]
    """Places of the grid without a core."""
