"""The history of a run: its CSV file, whose columns docs/training.md explains, and its TensorBoard events."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from histomake.base.files import atomic_file

HISTORY = "history.csv"
EVENTS = "events"


def add_events(folder: Path, row: Mapping[str, float]) -> None:
    """Add a row to the TensorBoard events in ``folder``."""
    with SummaryWriter(str(folder)) as events:
        for name, value in row.items():
            events.add_scalar(name, value, row["step"])


def write_history(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the rows as CSV; a column that a row lacks is empty there."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_file(path) as aside, open(aside, "w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
