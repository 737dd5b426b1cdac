"""The metadata of a cell table."""

from __future__ import annotations

from typing import ClassVar

from histomake.base.records.record import Count, Positive, PositiveMpp, StageRecord


class CellTableRecord(StageRecord, frozen=True, kw_only=True):
    """The slide and the source of a cell table, in the Parquet schema's metadata under the key ``histomake``."""

    NAME: ClassVar[str] = "cell table record"
    REMEDY: ClassVar[str] = "Delete the table and run the workflow again, which writes a new one"

    sha256: str
    """sha256 of the slide file, as in the manifest."""
    source: str
    """Where the cells come from, as in the configuration: ``annotation``, ``radhical:{cascade}`` or ``task:{task}``."""
    class_names: tuple[str, ...]
    """Classes of the cells; empty if they have none."""
    cells: Count
    """Number of cells."""
    mpp: PositiveMpp
    """Resolution at which the cells are measured, in µm per pixel."""
    scale: Positive
    """Level-0 pixels per pixel at which the cells are measured."""
    neighbours_um: tuple[int, ...]
    """Radii within which neighbours are counted, in µm."""
