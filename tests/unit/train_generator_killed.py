"""A training of a generator in a process of its own, to be killed."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import killed
from histomake.config import Generator
from histomake.generate.growing.training import train_generator
from histomake.learn.data.patch_index import SlideEntry


def main(generator: dict[str, Any], entries: Sequence[SlideEntry], folder: Path) -> None:
    """Learn the generator from the slides."""
    train_generator(
        Generator.model_validate(generator),
        entries=entries,
        output=folder / "model",
        state=folder / "state",
        seed=1,
        threads=1,
    )


def kill_repeatedly(generator: Generator, entries: Sequence[SlideEntry], folder: Path, *, kills: int) -> list[int]:
    """Kill the run ``kills`` times; the step that it reached each time."""

    def begin() -> BaseProcess:
        return killed.start(main, generator.dump(), entries, folder)

    folder.mkdir(parents=True, exist_ok=True)
    return killed.kill_repeatedly(begin, folder / "state", kills=kills, pause=0.05)
