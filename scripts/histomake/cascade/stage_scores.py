"""Scores of the stages of a patch cascade: computed by networks, or stored by dense predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined
from histomake.base.tables import lost_slide
from histomake.cascade.patch_cascade import StagePatches, link_stages
from histomake.config import Encoder, Grid
from histomake.features.on_pixels import load_encoding
from histomake.learn.data.patch_index import PatchIndex, SlideEntry, index_patches, usable_patches
from histomake.learn.data.reading import PatchReader
from histomake.learn.inference.predict import Predictor, load_model, predict_batches, slide_patches
from histomake.target.targets import UNLABELLED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.config import Task


SlideRow = tuple[str, str, dict[str, str]]
"""Id, patient and labels of a slide."""


@dataclass(frozen=True)
class Stage:
    """A trained classifier, the slide with the patch table of its grid, and how it is run."""

    predictor: Predictor
    entry: SlideEntry
    batch: int
    flips: bool = False


class NetworkScores:
    """Scores of the target class, computed when they are asked for."""

    def __init__(self, stages: Sequence[Stage], class_name: str, *, threads: int) -> None:
        """Open the stages, coarsest first. Raises ConfigError for one whose model lacks the class."""
        for stage in stages:
            if class_name not in stage.predictor.class_names:
                known = ", ".join(stage.predictor.class_names)
                raise ConfigError(
                    f"cascade: the model on grid {stage.predictor.task.grid} has the classes {known}, but not "
                    f"{class_name}"
                )
        self._stages, self._class_name, self._threads = stages, class_name, threads
        indices = [slide_patches(stage.predictor, stage.entry) for stage in stages]
        self.patches = link_stages(indices, Manifest.read_usable(stages[0].entry.manifest).mpp)

    def of(self, stage: int, wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        """See StageAnswers."""
        chosen, patches = self._stages[stage], self.patches[stage].patches
        assert patches is not None
        predictor = chosen.predictor
        column = predictor.class_names.index(self._class_name)
        out = np.zeros(len(wanted), np.float32)
        reader = PatchReader(patches.take(wanted), predictor.task.model, stain=predictor.stain)
        with predict_batches(
            predictor, reader, batch=chosen.batch, threads=self._threads, flips=chosen.flips
        ) as reading:
            for index, found in reading.batches:
                out[index] = found[:, column]
        return out


@dataclass(frozen=True)
class StoredScores:
    """Scores of every patch of every stage of a slide, coarsest first."""

    scores: Sequence[NDArray[np.float32]]

    def of(self, stage: int, wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        """See StageAnswers."""
        return self.scores[stage][wanted]


@dataclass(frozen=True)
class DenseSlide:
    """A slide with the scores of every stage everywhere, and the truth of the finest patches.

    positive: bool (n,), whether a finest patch has the class; known: bool (n,), whether that is known.
    """

    slide_id: str
    patient_id: str
    stages: list[StagePatches]
    answers: StoredScores
    positive: NDArray[np.bool_]
    known: NDArray[np.bool_]


def read_dense(
    tasks: Sequence[Task], entries: Sequence[SlideEntry], predictions: Sequence[Path | str], class_name: str
) -> DenseSlide | Quarantined | None:
    """Read the dense predictions of a slide by all stages, coarsest first.

    Returns the quarantine entry of a slide that could not be predicted, and None if the finest grid has no usable
    patch. Raises HistomakeError if predictions are not of the patches of their tables.
    """
    indices: list[PatchIndex | None] = []
    scores: list[NDArray[np.float32]] = []
    for task, entry, path in zip(tasks, entries, predictions, strict=True):
        table = pq.read_table(path)
        usable, record = usable_patches(entry)
        if lost := lost_slide(table):
            return lost
        if isinstance(record, Quarantined):
            return record
        if not np.array_equal(usable["patch_id"].to_numpy(), table["patch_id"].to_numpy()):
            raise HistomakeError(f"slide {entry.slide_id}: {path} is not of the patches of {entry.table}; delete it")
        indices.append(index_patches([entry], kind=task.kind, target=task.target) if usable.num_rows else None)
        scores.append(table[f"score_{class_name}"].to_numpy())
    finest = indices[-1]
    if finest is None:
        return None
    known, positive = _truth(finest, tasks[-1].target.classes.index(class_name))
    stages = link_stages(indices, Manifest.read_usable(entries[-1].manifest).mpp)
    return DenseSlide(entries[-1].slide_id, entries[-1].patient_id, stages, StoredScores(scores), positive, known)


def read_dense_slides(
    layout: Layout,
    tasks: Sequence[Task],
    slides: Sequence[SlideRow],
    predictions: Sequence[Path | str],
    class_name: str,
) -> list[DenseSlide | None]:
    """Read the dense predictions of slides; None for those without a patch or in quarantine.

    ``predictions``: of all stages of the first slide, coarsest first, then of the second one.
    """
    found: list[DenseSlide | None] = []
    for slide, paths in zip(slides, batched(predictions, len(tasks)), strict=True):
        entries = [SlideEntry.at(layout, task.grid, *slide) for task in tasks]
        dense = read_dense(tasks, entries, paths, class_name)
        found.append(dense if isinstance(dense, DenseSlide) else None)
    return found


def load_stages(
    folders: Sequence[Path], encoders: Sequence[Mapping[str, Any] | None], *, threads: int
) -> list[Predictor]:
    """Load the models of all stages, coarsest first, with the encoder of each that takes features.

    ``encoders``: its name, settings and grid, None for a stage on pixels.
    """
    return [
        load_model(folder, threads=threads) if how is None else load_encoding(folder, **_given(how), threads=threads)
        for folder, how in zip(folders, encoders, strict=True)
    ]


def _given(how: Mapping[str, Any]) -> dict[str, Any]:
    return {**how, "encoder": Encoder.model_validate(how["encoder"]), "grid": Grid.model_validate(how["grid"])}


def open_stages(
    layout: Layout,
    predictors: Sequence[Predictor],
    slide: SlideRow,
    use: Sequence[Mapping[str, Any]],
    batches: Sequence[int],
) -> list[Stage]:
    """The models of all stages, coarsest first, with a slide. ``use``: grid and flips of each stage."""
    return [
        Stage(predictor, SlideEntry.at(layout, how["grid"], *slide), batch, how["flips"])
        for predictor, how, batch in zip(predictors, use, batches, strict=True)
    ]


def _truth(patches: PatchIndex, output: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which patches have a known truth, and which have the class of an output: bool (n,) each."""
    if patches.target.ndim == 1:
        return patches.target != UNLABELLED, patches.target == output
    column = patches.target[:, output]
    return ~np.isnan(column), column > 0.5
