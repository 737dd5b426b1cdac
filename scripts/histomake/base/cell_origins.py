"""Kinds of sources of cells."""

from typing import Literal

CellOrigin = Literal["annotation", "radhical", "task"]
"""The annotations of the sheet, a cascade, or a task that segments."""
