"""A training of a stain transfer in a process of its own, to be killed."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import killed
from histomake.config import StainTransfer
from histomake.generate.training import train_transfer
from histomake.learn.data.patch_index import SlideEntry


def main(transfer: dict[str, Any], entries: Sequence[SlideEntry], folder: Path) -> None:
    """Learn the transfer from the first half of the slides to the second."""
    half = len(entries) // 2
    train_transfer(
        StainTransfer.model_validate(transfer),
        source=entries[:half],
        target=entries[half:],
        output=folder / "model",
        state=folder / "state",
        seed=1,
        threads=1,
    )


def kill_repeatedly(transfer: StainTransfer, entries: Sequence[SlideEntry], folder: Path, *, kills: int) -> list[int]:
    """Kill the run ``kills`` times; the step that it reached each time."""

    def begin() -> BaseProcess:
        return killed.start(main, transfer.dump(), entries, folder)

    folder.mkdir(parents=True, exist_ok=True)
    return killed.kill_repeatedly(begin, folder / "state", kills=kills, pause=0.05)
