"""Label images in the viewer: annotated masks, segmentations, cascades and cells, served as coloured tiles."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
import pyarrow.parquet as pq
import zarr
from PIL import Image

from histomake.base.errors import SlideError
from histomake.base.files import existing, store_of
from histomake.base.kinds import BACKGROUND
from histomake.base.layout import Layout
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.cascade_card import CascadeCard
from histomake.base.records.manifest import Manifest
from histomake.base.records.model_card import ModelCard
from histomake.base.records.patch_thresholds import PatchThresholdsRecord
from histomake.base.records.record import Quarantined, usable
from histomake.base.units import rescale
from histomake.cells.table import read_record
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table
from histomake.pictures.findings import label_levels
from histomake.target.kinds import LEARNED

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE = 512
ANNOTATION = "-"
"""Replaces the task in a tile's address. Task names cannot contain a dot, so it cannot be a task."""
NUCLEI, LEVEL = "labels", "state"
CELLS, CELL = "cells", "cell"
"""Replaces the array in the address of cells; the class of those that have none."""
STAGES = "stages"
"""Replaces the array in the address of the stages of a patch cascade."""
CASCADE_CLASSES = {NUCLEI: ["nucleus"], LEVEL: ["computed", "accepted"]}
"""Meaning of the values of a nucleus cascade's arrays, without 0: nucleus numbers, and states of a level's pixels."""
CASCADE_ORDER = ["accepted", "computed", "nucleus"]
"""The order of colours: the first ones are those of the level maps in the report."""


@dataclass(frozen=True)
class Mask:
    """A label image: levels finest first, each half the size of the previous; i + 1 is ``classes[i]``, 0 is no class.

    ``pixel``: level-0 pixels per label of the finest level. A mask that has one level only is thinned out when read.
    With a single class every value but 0 is of it. ``lookup``: class number by value, where values are no classes.
    """

    levels: Sequence[zarr.Array | NDArray[np.uint8]]
    pixel: float
    classes: list[str]
    lookup: NDArray[np.uint8] | None = None

    @property
    def count(self) -> int:
        """Levels that are served; the last one fits into one tile."""
        return 1 + max(0, math.ceil(math.log2(max(self.levels[0].shape) / TILE)))

    def tile(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        """Labels of one tile, cropped at the image's edge. Raises KeyError for a tile that does not exist."""
        height, width = (-(-length // 2**level) for length in self.levels[0].shape)
        if not (0 <= level < self.count and 0 <= row * TILE < height and 0 <= column * TILE < width):
            raise KeyError((level, row, column))
        stored = min(level, len(self.levels) - 1)
        step = 2 ** (level - stored)
        rows, columns = (slice(i * TILE * step, (i + 1) * TILE * step, step) for i in (row, column))
        labels = self.as_classes(np.asarray(self.levels[stored][rows, columns]))
        return (labels > 0).astype(np.uint8) if len(self.classes) == 1 else labels

    def as_classes(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return stored values as class numbers; of a single class any value but 0."""
        return values if self.lookup is None else self.lookup[values]


def open_layer(layout: Layout, slide: str, task: str, fold: int) -> Mask:
    """A mask of a slide; raises KeyError if there is none.

    ``task``: ANNOTATION for the annotated one, a segmentation task, an array of a nucleus cascade, as ``name.array``,
    ``name.cells``, or ``name.stages`` for a patch cascade.
    """
    if "." in task:
        name, part = task.split(".", 1)
        if part == STAGES:
            return _open_stages(layout, slide, name, fold)
        return _open_cells(layout, slide, name) if part == CELLS else _open_cascade(layout, slide, name, part)
    if task == ANNOTATION:
        record = annotation_of(layout, slide)
        if record is None or record.label_image is None:
            raise KeyError(f"{slide} has no annotated mask")
        array = zarr.open_array(store_of(layout.label_image(slide)), mode="r")
        return Mask([array], record.label_image.downsample, list(record.class_names))
    store = store_of(layout.segmentation(task, fold, slide))
    if not store.is_dir():
        raise KeyError(f"{task} fold {fold} has no segmentation of {slide}")
    card = ModelCard.read(layout.description(task, fold))
    slide_grid = SlideGrid.of_table(read_table(layout.table(card.grid.name, slide))[1])
    return Mask(label_levels(store), slide_grid.scale, [c for c in card.class_names if c != BACKGROUND])


def annotation_of(layout: Layout, slide: str) -> AnnotationRecord | None:
    """The record of a slide's annotation; None if there is none or it is in quarantine."""
    path = layout.annotation(slide)
    record = AnnotationRecord.read(path) if path.is_file() else None
    return record if isinstance(record, AnnotationRecord) else None


def _open_cascade(layout: Layout, slide: str, cascade: str, array: str) -> Mask:
    files = layout.cascade(cascade)
    store = store_of(files.store(slide))
    content, level = (NUCLEI, "1") if array == NUCLEI else (LEVEL, array.removeprefix(LEVEL))
    model = files.description(level)
    if not (store / array).is_dir() or not model.is_file():
        raise KeyError(f"cascade {cascade} has no {array} of {slide}")
    pixel = rescale(1, CascadeCard.read(model).mpp, Manifest.read_usable(layout.manifest(slide)).mpp)
    return Mask([zarr.open_array(store / array, mode="r")], pixel, CASCADE_CLASSES[content])


def _open_stages(layout: Layout, slide: str, cascade: str, fold: int) -> Mask:
    """Which stage of a patch cascade decided each patch of the finest grid: one label per cell of the grid."""
    files = layout.patch_cascade(cascade)
    if not files.prediction(fold, slide).is_file() or not files.thresholds(fold).is_file():
        raise KeyError(f"cascade {cascade} fold {fold} has no predictions of {slide}")
    tasks = PatchThresholdsRecord.read(files.thresholds(fold)).stages
    card = ModelCard.read(layout.description(tasks[-1], fold))
    grid = SlideGrid.of_table(read_table(layout.table(card.grid.name, slide))[1])
    table = pq.read_table(files.prediction(fold, slide), columns=["x", "y", "stage"])
    rows, columns = (np.rint(table[name].to_numpy() / grid.step).astype(int) for name in ("y", "x"))
    shape = [math.ceil(length / grid.step) for length in (grid.height, grid.width)]
    labels = np.zeros(shape, np.uint8)
    labels[rows, columns] = table["stage"].to_numpy()
    return Mask([labels], grid.step, [f"decided by {task}" for task in tasks])


def _stages(layout: Layout, slide: str) -> dict[tuple[str, int], str]:
    """All patch cascades on a slide by address and fold, with their titles."""
    found = {}
    for path in existing(layout.patch_cascade("*").prediction("*", slide), under=layout.results):
        cascade, fold = path.parent.parent.name, int(path.parent.name.removeprefix("fold"))
        found[f"{cascade}.{STAGES}", fold] = f"{cascade}, fold {fold}: deciding stage"
    return found


def _open_cells(layout: Layout, slide: str, name: str) -> Mask:
    store, table = store_of(layout.cell_labels(name, slide)), layout.cells(name, slide)
    if not (store / "0").is_dir() or not table.is_file():
        raise KeyError(f"{slide} has no cells of {name}")
    stat = table.stat()
    classes, scale, numbers = _classes_of_cells(table, (stat.st_ino, stat.st_mtime_ns))
    return Mask([zarr.open_array(store / "0", mode="r")], scale, classes, numbers)


@lru_cache(maxsize=4)
def _classes_of_cells(table: Path, _written: tuple[int, int]) -> tuple[list[str], float, NDArray[np.uint8]]:
    """Classes, level-0 pixels per pixel, and the class number by number of a cell.

    Kept, because every tile needs them and a slide has a million cells; a table that is written anew is read anew.
    """
    record = usable(read_record(table))
    classes = list(record.class_names) or [CELL]
    column = pq.read_table(table, columns=["class"])["class"].combine_chunks()
    # Without classes every cell has none, which is the index after the last one.
    order = np.array([*(classes.index(name) for name in column.dictionary.to_pylist()), 0])
    numbers = np.zeros(record.cells + 1, np.uint8)
    numbers[1:] = order[column.indices.fill_null(order.size - 1).to_numpy()] + 1
    return classes, record.scale, numbers


def _cells(layout: Layout, slide: str) -> dict[str, str]:
    """All cells of a slide, with their titles."""
    names = [path.parent.name for path in existing(layout.cells("*", slide), under=layout.results)]
    return {f"{name}.{CELLS}": f"cells: {name}" for name in names}


def _cascade_arrays(layout: Layout, slide: str) -> dict[str, str]:
    """The arrays of all cascades on a slide, finest level last, with their titles."""
    found = {}
    for store in map(store_of, existing(layout.cascade("*").store(slide), under=layout.results)):
        cascade = store.parent.parent.name
        for path in sorted(store.glob(f"{LEVEL}*"), reverse=True):
            found[f"{cascade}.{path.name}"] = f"{cascade}: level {path.name.removeprefix(LEVEL)}"
        found[f"{cascade}.{NUCLEI}"] = f"{cascade}: nuclei found"
    return found


class MaskTiles(TypedDict):
    """What the page needs to request the tiles of a mask.

    width, height: pixels of the finest level; tile: edge of a tile; pixel: level-0 pixels of a pixel of that level;
    title: null for the mask of the annotation or of a task; classes: what its pixels can be; colours: of the classes,
    as #rrggbb, where they are not those of the slide's class order.
    """

    task: str
    fold: int
    title: str | None
    classes: list[str]
    width: int
    height: int
    tile: int
    levels: int
    pixel: float
    colours: NotRequired[list[str]]


def describe(layout: Layout, slide: str) -> list[MaskTiles]:
    """What the page needs to request the tiles of every mask of a slide."""
    whole = _cascade_arrays(layout, slide) | _cells(layout, slide)
    titles = {(name, 0): title for name, title in whole.items()} | _stages(layout, slide)
    places = [(ANNOTATION, 0), *titles]
    for path in map(store_of, existing(layout.segmentation("*", "*", slide), under=layout.results)):
        places.append((path.parent.parent.name, int(path.parent.name.removeprefix("fold"))))
    found = []
    for task, fold in places:
        try:
            mask = open_layer(layout, slide, task, fold)
        except (KeyError, SlideError):  # a slide in quarantine has neither
            continue
        found.append(tiles_of(mask, task, fold, titles.get((task, fold))))
    return found


def tiles_of(mask: Mask, task: str, fold: int, title: str | None) -> MaskTiles:
    """What the page needs to request the tiles of a mask."""
    height, width = mask.levels[0].shape
    return MaskTiles(
        task=task,
        fold=fold,
        title=title,
        classes=mask.classes,
        width=width,
        height=height,
        tile=TILE,
        levels=mask.count,
        pixel=mask.pixel,
    )


def class_order(layout: Layout, slide: str) -> list[str]:
    """All classes visible on a slide, in palette order: classes of its models, then annotated classes."""
    names: dict[str, None] = {}
    for path in existing(layout.prediction("*", "*", slide), under=layout.results):
        fold = int(path.parent.name.removeprefix("fold"))
        card = ModelCard.read(layout.description(path.parent.parent.name, fold))
        if not LEARNED[card.kind].numbers:
            names |= dict.fromkeys(name for name in card.class_names if name != BACKGROUND)
    if (annotation := annotation_of(layout, slide)) is not None:
        names |= dict.fromkeys(annotation.class_names)
    if _cascade_arrays(layout, slide):
        names |= dict.fromkeys(CASCADE_ORDER)
    for task, fold in _stages(layout, slide):
        record_of = layout.patch_cascade(task.removesuffix(f".{STAGES}")).thresholds(fold)
        names |= dict.fromkeys(f"decided by {stage}" for stage in PatchThresholdsRecord.read(record_of).stages)
    for task in _cells(layout, slide):
        record = read_record(layout.cells(task.removesuffix(f".{CELLS}"), slide))
        names |= dict.fromkeys(() if isinstance(record, Quarantined) else record.class_names or (CELL,))
    return list(names)


def picture(labels: NDArray[np.uint8], classes: Sequence[str], colours: Mapping[str, tuple[int, int, int]]) -> bytes:
    """Encode a tile as PNG: every class in its colour; pixels without a class are transparent."""
    palette = np.zeros((256, 3), np.uint8)
    for i, name in enumerate(classes):
        palette[i + 1] = colours[name]
    image = Image.fromarray(labels)
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", transparency=0)
    return buffer.getvalue()
