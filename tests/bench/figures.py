"""Benchmark figures and their formatting."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Figure:
    """One measured figure and its bound.

    ``value`` is a ratio or an amount in ``unit``; ``bar`` is a bound such as ``<= 2.0``; ``ok`` tells whether it holds.
    """

    figure: str
    value: float
    bar: str
    ok: bool
    unit: str = ""
    note: str = ""


def show(figures: Iterable[Figure]) -> str:
    """Format a table for people, followed by one JSON line per figure for programs."""
    rows = list(figures)
    width = max((len(f.figure) for f in rows), default=6)
    lines = [f"{'figure':<{width}}  {'value':>12}  {'bar':>10}  ok"]
    for f in rows:
        ok = "yes" if f.ok else "NO "
        lines.append(f"{f.figure:<{width}}  {f.value:>12.4g}  {f.bar:>10}  {ok}  {f.unit}  {f.note}".rstrip())
    return "\n".join([*lines, "", *(json.dumps(asdict(f)) for f in rows)])
