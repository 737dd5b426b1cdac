"""Data of one slide and one model's predictions on it, from which all views are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import zarr

from histomake.annotation.model import Annotation
from histomake.annotation.raster import rasterise
from histomake.base.kinds import BACKGROUND, Kind
from histomake.base.records.model_card import ModelCard
from histomake.base.records.patch_table import PatchTableRecord
from histomake.graphs.store import StoredGraph
from histomake.patch.grid import SlideGrid
from histomake.pictures import canvas
from histomake.target.kinds import LEARNED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader


@dataclass(frozen=True)
class ChoosingScores:
    """What the model that chose the patches of an encoder predicted of the slide, and the record of its patch table."""

    record: PatchTableRecord
    predictions: pa.Table


@dataclass(frozen=True)
class SlideFindings:
    """A slide, its annotation, and a model's predictions on it.

    Attributes:
        reader: The slide.
        table: Record of the slide's patch table.
        model: Card of the model.
        predictions: Predictions as returned by predict_slide or segment_slide.
        annotation: Annotation of the slide.
        label_store: OME-Zarr labels of a segmentation.
        graph: Graph of the slide, of a task on graphs.
        nodes: Predictions of its nodes.
        choosing: Scores that chose the patches, if the model's encoder sees chosen ones.
    """

    reader: SlideReader
    table: PatchTableRecord
    model: ModelCard
    predictions: pa.Table
    annotation: Annotation
    label_store: Path | None = None
    graph: StoredGraph | None = None
    nodes: pa.Table | None = None
    choosing: ChoosingScores | None = None

    @property
    def classes(self) -> list[str]:
        """The model's outputs, in order."""
        return self.model.class_names

    @property
    def kind(self) -> Kind:
        """Kind of the model's task."""
        return self.model.kind

    @property
    def colours(self) -> dict[str, canvas.Colour]:
        """A colour per class, the same in all images; background has none."""
        return canvas.class_colours([name for name in self.classes if name != BACKGROUND])

    @property
    def patches(self) -> canvas.Patches:
        """Positions of the predicted patches."""
        x, y = (self.predictions[name].to_numpy() for name in ("x", "y"))
        return canvas.Patches(x, y, self.slide_grid.span)

    @property
    def middles(self) -> canvas.Patches:
        """The central part of every patch, which does not overlap others and is coloured."""
        offset, edge = self.slide_grid.middle
        whole = self.patches
        return canvas.Patches(whole.x + offset, whole.y + offset, edge)

    @property
    def slide_grid(self) -> SlideGrid:
        """The grid of the predicted patches."""
        return SlideGrid.of_table(self.table)

    def columns(self, prefix: str) -> NDArray[np.float64]:
        """Return the ``prefix``_<output> columns as (n, outputs); NaN where a value is missing."""
        found = [self.predictions[f"{prefix}_{name}"].to_numpy(zero_copy_only=False) for name in self.classes]
        return np.stack(found, axis=1).astype(np.float64)

    @property
    def scores(self) -> NDArray[np.float64]:
        """Scores (n, outputs)."""
        return self.columns("score")

    def names(self, column: str) -> NDArray[np.object_]:
        """Return ``predicted`` or ``label`` of every patch; None if it is missing."""
        return np.array(self.predictions[column].cast(pa.string()).to_pylist(), dtype=object)

    @property
    def is_binary(self) -> bool:
        """Whether there are two outputs of which a patch or slide has exactly one."""
        return len(self.classes) == 2 and LEARNED[self.kind].exclusive

    @property
    def annotated(self) -> bool:
        """Whether the slide has an annotation, even one without regions."""
        return self.annotation.record is not None and self.annotation.record.is_annotated

    def annotated_labels(self, thumb: canvas.Thumbnail) -> NDArray[np.uint8]:
        """Rasterise the annotation to a thumbnail: 0 unlabelled, i + 1 ``annotation.class_names[i]``."""
        height, width = thumb.pixels.shape[:2]
        return rasterise(self.annotation, thumb.left, thumb.top, max(height, width), thumb.scale)[:height, :width]

    def predicted_labels(self, thumb: canvas.Thumbnail) -> NDArray[np.uint8]:
        """Resample a segmentation to a thumbnail: 0 background or not predicted, i + 1 the target's i-th class."""
        if self.label_store is None:
            raise ValueError(f"{self.table.slide_id}: a {self.kind} task has no labels of pixels")
        return labels_on(thumb, self.label_store, self.slide_grid.scale)


def label_levels(store: Path) -> list[zarr.Array]:
    """Open the levels of an OME-Zarr label image, finest first."""
    arrays = dict(zarr.open_group(store, mode="r").arrays())
    return [arrays[str(number)] for number in range(len(arrays))]


def labels_on(thumb: canvas.Thumbnail, store: Path, label_px: float) -> NDArray[np.uint8]:
    """Resample the labels of an OME-Zarr pyramid to the thumbnail's pixels, uint8 (h, w).

    ``label_px`` is the number of level-0 pixels per label of the finest level. The coarsest level that is as fine as
    the thumbnail is read. A level contains every second label of the finer level, so positions are rounded, not
    truncated: labels are at most half a thumbnail pixel off.
    """
    levels = label_levels(store)
    number = max((k for k in range(len(levels)) if label_px * 2**k <= thumb.scale), default=0)
    x, y = thumb.centres()
    columns, rows = (
        np.clip(np.rint(np.floor(at / label_px) / 2**number).astype(int), 0, length - 1)
        for at, length in ((x, levels[number].shape[1]), (y, levels[number].shape[0]))
    )
    part = levels[number][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.asarray(part)[(rows - rows[0])[:, None], columns - columns[0]]
