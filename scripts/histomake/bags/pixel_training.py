"""Training of a task on bags of pixels: from the slides of a cohort to the files of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histomake.bags.index import BagIndex, gather_bags
from histomake.bags.pixel_objective import PixelBagObjective
from histomake.bags.pixels import FeaturizedPatches
from histomake.bags.training import known_bags, learn
from histomake.base.records.model_card import ModelCard
from histomake.config import Task
from histomake.learn.data.patch_index import SlideEntry, index_patches
from histomake.learn.train import require_slides, train_without_damaged


def train_pixel_bags(
    task: Task,
    *,
    train: Sequence[SlideEntry],
    val: Sequence[SlideEntry],
    output: Path,
    state: Path,
    seed: int,
    threads: int,
    max_lost: float = 0.0,
) -> ModelCard:
    """Train the model of a task on bags of pixels; fill ``output`` with the files that `train_bags` writes.

    Args:
        task: The task, of level slide or patient, without features.
        train: Slides to learn from.
        val: Slides to choose with.
        output: Folder of the model.
        state: Folder of the checkpoints.
        seed: Seed of all draws.
        threads: Number of CPU threads.
        max_lost: Largest share of the slides that may turn out to be damaged.

    A slide with a damaged tile is left out as in `histomake.learn.train.train`. Raises HistomakeError for data from
    which no model can be learned.
    """

    def once(train: Sequence[SlideEntry], val: Sequence[SlideEntry]) -> None:
        require_slides(train, val)
        bags, held_out = (known_bags(task, pixel_bags(task, entries)) for entries in (train, val))
        learn(
            PixelBagObjective,
            task,
            bags=bags,
            held_out=held_out,
            output=output,
            state=state,
            seed=seed,
            threads=threads,
        )

    return train_without_damaged(once, train, val, output=output, state=state, max_lost=max_lost)


def pixel_bags(task: Task, entries: Sequence[SlideEntry]) -> BagIndex:
    """The bags of slides, whose vectors a network still has to compute."""
    patches = index_patches(entries, kind=task.kind, target=task.target)
    return gather_bags(
        patches,
        lambda kept: FeaturizedPatches(kept, task.model, task.bag),
        level=task.level,
        min_tissue=task.bag.min_tissue,
    )
