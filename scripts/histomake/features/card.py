"""The card of a head: what it was learned from, and what training found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from histomake.base.records.model_card import ModelCard, ModelGrid, Normalisation
from histomake.config import Task
from histomake.features.index import FeatureReader
from histomake.learn.data.patch_index import PatchIndex
from histomake.learn.objectives.patches import made_with
from histomake.target.outputs import outputs_of


def describe_head(
    task: Task, reader: FeatureReader, held_out: PatchIndex, chosen: Mapping[str, float], *, seed: int
) -> ModelCard:
    """The card of a head before it is trained: figures, thresholds and number of weights are still empty."""
    patches, column = reader.patches, reader.column
    entries = [*patches.entries, *held_out.entries]
    return ModelCard(
        kind=task.kind,
        class_names=outputs_of(task.kind, task.target),
        architecture={},
        target=task.target.dump(),
        grid=ModelGrid(name=task.grid, size=patches.size, mpp=patches.mpp),
        normalisation=Normalisation(mean=tuple(column.card["mean"]), std=tuple(column.card["std"])),
        features=column,
        head={"name": task.head, "probe": task.probe.dump(), "chosen": dict(chosen)},
        threshold=0.5,
        slide_thresholds={},
        metrics={},
        step=0,
        seed=seed,
        made_with=sorted({*made_with(entries, False), *column.made_with}),
        parameters=0,
    )


def finished(
    card: ModelCard, *, step: int, figures: Mapping[str, float], thresholds: Mapping[str, Any], parameters: int
) -> ModelCard:
    """The card with what training found."""
    finite = {name: value if np.isfinite(value) else None for name, value in figures.items()}
    return msgspec.structs.replace(card, metrics=finite, step=step, parameters=parameters, **thresholds)
