"""Choice of the patches that an encoder sees: those that a model scored highest on a coarser grid.

The same choice is made of training slides and of slides that are predicted, so that a model of bags meets in prediction
what it was trained on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from histomake.base.errors import HistomakeError
from histomake.base.records.features import FeatureColumn, PatchChooser
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import Quarantined
from histomake.base.tables import lost_slide
from histomake.base.units import Mpp, PatchPixels
from histomake.config import Grid, PatchChoice
from histomake.patch.grid import SlideGrid
from histomake.patch.nesting import patches_around
from histomake.patch.table import read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROUNDING = 1e-9
"""Added to budget times patches before it is cut off, since products such as 0.29 · 100 are a little too small."""


@dataclass(frozen=True)
class GridPatches:
    """Patches of a table on a grid: `histomake.patch.nesting.PlacedPatches`."""

    x: NDArray[np.int32]
    y: NDArray[np.int32]
    size: PatchPixels
    stride: PatchPixels
    mpp: Mpp

    @classmethod
    def of(cls, table: pa.Table, grid: Grid) -> GridPatches:
        """The patches at ``x`` and ``y`` of a table."""
        return cls(table["x"].to_numpy(), table["y"].to_numpy(), grid.size, grid.stride or grid.size, grid.mpp)


@dataclass(frozen=True)
class Chooser:
    """The models of the folds of a task that choose patches.

    choice: the settings. folds: fold of each model; cards: their cards.
    """

    choice: PatchChoice
    folds: Sequence[int]
    cards: Sequence[ModelCard]

    @classmethod
    def read(cls, choice: PatchChoice, descriptions: Mapping[int, Path]) -> Chooser:
        """The models with these cards, by fold."""
        return cls(choice, list(descriptions), [ModelCard.read(path) for path in descriptions.values()])

    def columns(self, encoder: FeatureColumn) -> list[FeatureColumn]:
        """The columns of an encoder that sees what each model chooses.

        Features are used together only if the same model chose by the same limits, since a bag of other patches is
        another input.
        """
        found = []
        for fold, card in zip(self.folds, self.cards, strict=True):
            chooser = PatchChooser(weights=str(card.weights_sha256), **self.choice.dump())
            identity = identity_of(encoder, chooser)
            made_with = sorted({*encoder.made_with, *card.made_with})
            found.append(
                msgspec.structs.replace(encoder, fold=fold, identity=identity, made_with=made_with, chooser=chooser)
            )
        return found


def identity_of(encoder: FeatureColumn, chooser: PatchChooser) -> str:
    """Identity of the features of an encoder that sees what a model chooses."""
    shaping = json.dumps([encoder.identity, msgspec.to_builtins(chooser)], sort_keys=True)
    return hashlib.sha256(shaping.encode()).hexdigest()


def choose(scores: NDArray[np.floating], choice: PatchChoice) -> NDArray[np.bool_]:
    """Which of n patches are chosen: those of the highest scores within all limits, of equal ones the first.

    ``scores`` (n,): NaN where it is not known; such a patch is never chosen. Of the others at least one is.
    """
    known = int(np.isfinite(scores).sum())
    limits = [known]
    if choice.budget is not None:
        limits.append(int(choice.budget * len(scores) + ROUNDING))
    if choice.most is not None:
        limits.append(choice.most)
    if choice.least_score is not None:
        limits.append(int((scores >= choice.least_score).sum()))
    chosen = np.zeros(len(scores), bool)
    chosen[np.argsort(-scores, kind="stable")[: min(known, max(1, min(limits)))]] = True
    return chosen


def score_column(choice: PatchChoice) -> str:
    """Column of predictions that chooses."""
    return "attention" if choice.class_name is None else f"score_{choice.class_name}"


def patches_chosen(
    choice: PatchChoice, patches: pa.Table, grid: SlideGrid, coarse_table: Path, predictions: Sequence[Path]
) -> list[NDArray[np.bool_]] | Quarantined:
    """Which usable patches of a slide are chosen by each of several models, bool (n,) each.

    Args:
        choice: Settings.
        patches: Usable patches of the slide, with ``x`` and ``y``.
        grid: Their grid.
        coarse_table: Patch table of the grid of the models.
        predictions: What each model predicted of the slide.

    A quarantine entry if the slide is in quarantine since the coarser patches were read.
    """
    found: list[NDArray[np.bool_]] = []
    _, record = read_table(coarse_table)
    fine = GridPatches.of(patches, grid.grid)
    for path in predictions:
        table = pq.read_table(path)
        if (lost := lost_slide(table)) is not None:
            return lost
        if score_column(choice) not in table.column_names:
            raise HistomakeError(f"{path} has no column {score_column(choice)}; delete it and run the workflow again")
        parent = patches_around(GridPatches.of(table, SlideGrid.of_table(record).grid), fine, grid.mpp)
        scores = np.full(len(parent), np.nan, np.float32)
        scores[parent >= 0] = table[score_column(choice)].to_numpy()[parent[parent >= 0]]
        found.append(choose(scores, choice))
    return found
