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


def survival(time: str | None, event: str | None) -> tuple[float, float] | None:
    """The time and the event, 1 or 0, in two cells of a slide; None if both are empty.

    Raises ValueError if one of them is empty, the time is not a positive number, or the event is neither 0 nor 1.
    """
    if not time and not event:
        return None
    if not time or not event:
        raise ValueError(
            f"{'empty' if not time else repr(time)}, while event is {'empty' if not event else repr(event)}"
        )
    if (found := number(time)) <= 0:
        raise ValueError(f"{time!r}, not a time after the start of observation")
    try:
        happened = number(event)
    except ValueError:
        happened = -1.0
    if happened not in (0, 1):
        raise ValueError(f"{time!r} with event {event!r}, which is neither 1 nor 0")
    return found, happened


def listed(cell: str) -> list[str]:
    """The items of a cell, which commas separate, without spaces around them. An empty cell has none."""
    return [item.strip() for item in cell.split(",")] if cell else []


def classes_named(cell: str, labels: Mapping[str, str], *, several: bool) -> list[str]:
    """Return the classes that a cell names, after ``labels`` has mapped its texts; of an empty cell none.

    ``several``: commas separate several classes. A text that is not a class is returned as it is.
    """
    items = listed(cell) if several and cell not in labels else [cell] if cell else []
    return [labels.get(item, item) for item in items]
