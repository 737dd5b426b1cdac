"""Training of one level of a cascade: from its annotated slides to the files of its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from histomake.base.layout import DESCRIPTION
from histomake.base.records.cascade_card import CascadeCard
from histomake.cascade.fields import Field, training_fields
from histomake.cascade.objective import LevelObjective
from histomake.config import Annotations, CascadeNetwork, CascadeTrain, Radhical
from histomake.learn.engine import distributed
from histomake.learn.engine.launch import launch
from histomake.learn.engine.objective import Json
from histomake.learn.engine.run import run
from histomake.learn.engine.runtime import choose_runtime
from histomake.learn.engine.settings import Settings

RECORD_EVERY = 50
GRADIENT_LIMIT = 5.0
AVERAGING = 0.98
"""Decay of the average of the weights, which covers about the last 50 steps."""


def train_slides(
    slides: Sequence[tuple[Path, Path]],
    number: int,
    *,
    annotations: Annotations,
    config: Radhical,
    output: Path,
    state: Path,
    seed: int,
    threads: int,
) -> None:
    """`train_level` from (manifest, annotation) pairs, in as many processes as ``train.gpus`` asks for."""
    if config.train.gpus == 1:
        fields = training_fields(slides, annotations, config)
        places = {"output": output, "state": state}
        train_level(fields, number, network=config.network, config=config.train, **places, seed=seed, threads=threads)
        return
    job: dict[str, Json] = {"number": number, "annotations": annotations.dump(), "config": config.dump()}
    job |= {"slides": [[str(path) for path in pair] for pair in slides]}
    job |= {"output": str(output), "state": str(state), "seed": seed, "threads": threads // config.train.gpus}
    launch(train_one_of_several, job, folder=state, processes=config.train.gpus)


def train_one_of_several(
    *,
    slides: list[tuple[str, str]],
    number: int,
    annotations: Mapping[str, Json],
    config: Mapping[str, Json],
    output: str,
    state: str,
    seed: int,
    threads: int,
) -> None:
    """`train_level` in one of several processes, with JSON for arguments."""
    cascade, section = Radhical.model_validate(config), Annotations.model_validate(annotations)
    fields = training_fields([(Path(a), Path(b)) for a, b in slides], section, cascade)
    places = {"output": Path(output), "state": Path(state)}
    train_level(fields, number, network=cascade.network, config=cascade.train, **places, seed=seed, threads=threads)


def train_level(
    fields: Sequence[Field],
    number: int,
    *,
    network: CascadeNetwork,
    config: CascadeTrain,
    output: Path,
    state: Path,
    seed: int,
    threads: int,
) -> CascadeCard:
    """Train the network of one level; fill ``output`` with weights, card, history and points; return the card.

    The weights are an exponential average over the last steps, which is steadier than the last ones. ``state`` is a
    folder that outlives the job: a run that finds its own checkpoint there continues from it.

    Raises:
        HistomakeError: The slides lack a class, or the loss is not a number.
        PreemptedError: SIGTERM arrived; the state is saved.
    """
    runtime = choose_runtime(_precision(config), threads=threads, index=distributed.local_rank())
    steps = config.steps if isinstance(config.steps, int) else config.steps[number - 1]
    # At least one process reads ahead, even if the job has only one thread.
    workers = max(1, threads - 1) if config.workers is None else config.workers
    objective = LevelObjective(
        fields, number, network=network, config=config, steps=steps, runtime=runtime, seed=seed, workers=workers
    )
    settings = Settings(
        steps=steps,
        seed=seed * 1000 + number,
        record_every=RECORD_EVERY,
        clip=GRADIENT_LIMIT,
        ema=AVERAGING,
        checkpoint_minutes=config.checkpoint_minutes,
    )
    run(objective, settings, runtime=runtime, state=state, output=output)
    return CascadeCard.read(output / DESCRIPTION)


def _precision(config: CascadeTrain) -> str:
    """For auto, use bf16 also on a CPU with bf16 matrix products: twice as fast, and inference uses float32 anyway."""
    tiles = torch.cpu.get_capabilities().get("amx_bf16", False)
    return "bf16" if config.precision == "auto" and tiles and not torch.cuda.is_available() else config.precision
