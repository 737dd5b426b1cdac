"""Training of a stain transfer: from the slides of both sides to the files of its generators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import structs

from histomake.base.errors import HistomakeError
from histomake.base.layout import DESCRIPTION, Layout
from histomake.base.records.cohort import CohortSlide
from histomake.base.records.transfer_card import TransferCard
from histomake.cohort.side_contents import SIDES
from histomake.config import StainTransfer
from histomake.generate.objective import TransferObjective
from histomake.generate.patches import index_side
from histomake.learn.data.cohort import read_cohort
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.engine.run import run
from histomake.learn.engine.runtime import choose_runtime
from histomake.learn.engine.settings import Settings
from histomake.learn.train import without_damaged


def read_sides(
    layout: Layout, path: Path | str, *, grid: str
) -> tuple[list[CohortSlide], list[SlideEntry], list[SlideEntry]]:
    """Read the cohort of a transfer: its slides as in the file, and the entries of ``from`` and of ``to``.

    Raises HistomakeError if a file of a slide has other bytes than the cohort was made of.
    """
    slides = read_cohort(layout, path, grid=grid).slides
    source, target = (
        [SlideEntry.at(layout, grid, s.slide_id, s.patient_id, s.labels) for s in slides if s.role == side]
        for side in SIDES
    )
    return slides, source, target


def train_transfer(
    transfer: StainTransfer,
    *,
    source: Sequence[SlideEntry],
    target: Sequence[SlideEntry],
    output: Path,
    state: Path,
    seed: int,
    threads: int,
    max_lost: float = 0.0,
) -> TransferCard:
    """Train the generators of a stain transfer; fill ``output`` with model.safetensors, model.json and history.csv.

    Args:
        transfer: The settings.
        source: Training slides of ``from``.
        target: Training slides of ``to``.
        output: Folder of the model.
        state: Folder of the checkpoints.
        seed: Seed of all draws.
        threads: Number of CPU threads.
        max_lost: Largest share of the slides that may turn out to be damaged.

    The weights are the moving average of the generators. A slide with a damaged tile is left out as in
    `histomake.learn.train.train`. Raises HistomakeError if a side has no usable patch or a loss is not a number.
    """

    def once(source: Sequence[SlideEntry], target: Sequence[SlideEntry]) -> None:
        sides = index_side(source, SIDES[0]), index_side(target, SIDES[1])
        if sides[0].size != sides[1].size or sides[0].mpp != sides[1].mpp:
            raise HistomakeError(f"the patch tables of grid {transfer.grid} differ between the sides; make them again")
        runtime = choose_runtime(transfer.train.precision, threads=threads)
        objective = TransferObjective(transfer, sides=sides, runtime=runtime, seed=seed, threads=threads)
        train = transfer.train
        settings = Settings(
            steps=train.steps,
            seed=seed,
            record_every=train.record_every,
            ema=train.ema,
            checkpoint_minutes=train.checkpoint_minutes,
        )
        run(objective, settings, runtime=runtime, state=state, output=output)

    left_out = without_damaged(once, source, target, state=state, max_lost=max_lost)
    card = structs.replace(TransferCard.read(output / DESCRIPTION), left_out=left_out)
    card.write(output / DESCRIPTION)
    return card
