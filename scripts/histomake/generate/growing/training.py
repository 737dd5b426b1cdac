"""Training of a growing generator: from the slides of its cohort to its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import structs

from histomake.base.layout import DESCRIPTION
from histomake.base.records.generator_card import GeneratorCard
from histomake.config import Generator
from histomake.generate.growing.fields import index_fields
from histomake.generate.growing.objective import GrowingObjective
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.engine.run import run
from histomake.learn.engine.runtime import choose_runtime
from histomake.learn.engine.settings import Settings
from histomake.learn.train import without_damaged

TRAINING = "the training slides of the generator"


def train_generator(
    generator: Generator,
    *,
    entries: Sequence[SlideEntry],
    output: Path,
    state: Path,
    seed: int,
    threads: int,
    max_lost: float = 0.0,
) -> GeneratorCard:
    """Train a generator; fill ``output`` with model.safetensors, model.json, history.csv and phases.png.

    Args:
        generator: The settings.
        entries: The training slides, with tables of the generator's fields.
        output: Folder of the model.
        state: Folder of the checkpoints.
        seed: Seed of all draws.
        threads: Number of CPU threads.
        max_lost: Largest share of the slides that may turn out to be damaged.

    A slide with a damaged tile is left out as in `histomake.learn.train.train`. Raises HistomakeError if there is no
    usable field or a loss is not a number.
    """

    def once(slides: Sequence[SlideEntry], _: Sequence[SlideEntry]) -> None:
        fields = index_fields(slides, generator, what=TRAINING)
        runtime = choose_runtime("fp32", threads=threads)
        objective = GrowingObjective(generator, fields=fields, runtime=runtime, seed=seed, threads=threads)
        train = generator.train
        settings = Settings(
            steps=objective.schedule.steps,
            seed=seed,
            record_every=train.record_every,
            ema=train.ema,
            checkpoint_minutes=train.checkpoint_minutes,
        )
        run(objective, settings, runtime=runtime, state=state, output=output)

    left_out = without_damaged(once, entries, [], state=state, max_lost=max_lost)
    card = structs.replace(GeneratorCard.read(output / DESCRIPTION), left_out=left_out)
    card.write(output / DESCRIPTION)
    return card
