"""Cells of the slide sheet: numbers and lists, read in one way by the check of the sheet and by what learns from it."""

from __future__ import annotations

import re
from collections.abc import Mapping

NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


def number(cell: str) -> float:
    """The number in a cell. Raises ValueError for text, decimal commas, units, infinity and what is not a number."""
    if not NUMBER.fullmatch(cell):
        raise ValueError(f"{cell!r}, not a number")
    found = float(cell)
    if found in (float("inf"), float("-inf")):
        raise ValueError(f"{cell!r}, too large a number")
    return found


def listed(cell: str) -> list[str]:
    """The items of a cell, which commas separate, without spaces around them. An empty cell has none."""
    return [item.strip() for item in cell.split(",")] if cell else []


def classes_named(cell: str, labels: Mapping[str, str], *, several: bool) -> list[str]:
    """Return the classes that a cell names, after ``labels`` has mapped its texts; of an empty cell none.

    ``several``: commas separate several classes. A text that is not a class is returned as it is.
    """
    items = listed(cell) if several and cell not in labels else [cell] if cell else []
    return [labels.get(item, item) for item in items]
