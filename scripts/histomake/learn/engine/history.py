"""The history of a run: its columns, its CSV file and its TensorBoard events."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from histomake.base.files import atomic_file

HISTORY = "history.csv"
EVENTS = "events"

COLUMNS = {
    "step": "Optimiser steps done.",
    "train_<figure>": "Mean of a training figure since the row before; loss, or <optimiser>_loss with several.",
    "learning_rate": "Learning rate of the last parameter group, learning_rate_<optimiser> with several optimisers.",
    "seconds": "Time spent on steps since the row before, without validation and checkpoints.",
    "data_wait": "Share of seconds spent waiting for batches.",
    "read_errors": "Patches that could not be read so far; tasks on patches only.",
    "val_<figure>": "A validation figure; empty where nothing is validated.",
}
"""Columns of history.csv, in order; they are also TensorBoard scalars of these names."""


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
