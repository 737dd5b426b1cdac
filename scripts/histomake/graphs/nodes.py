"""Nodes of a slide's graph from patches and cells, with their features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from histomake.base.errors import HistomakeError, Reason, SlideError
from histomake.base.records.features import FeatureColumn
from histomake.base.records.manifest import Manifest
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.record import Quarantined, quarantined, usable
from histomake.base.tables import lost_slide
from histomake.cells.table import read_cells, read_record
from histomake.cohort.quarantine import lost_store
from histomake.config import Graph
from histomake.features.store import read_features, rows_of
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table, record_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELL_COLUMNS = {
    "shape": ("area_um2", "perimeter_um", "eccentricity", "solidity"),
    "stain": ("haematoxylin", "eosin", "texture"),
}
"""Columns of the cell table of each group. Not the orientation, which depends on how the tissue lies on the slide."""


@dataclass(frozen=True)
class Nodes:
    """The n nodes of a slide.

    ids: uint32 (n,), of the patch, cell or region. x, y: float64 (n,), centres in level-0 pixels. values: vectors
    (n, d) by group of features. names: names of the d numbers by group. touching: pairs int64 (e, 2) of nodes that
    touch, where the source says so. step: distance of neighbours on the lattice of patches, in level-0 pixels.
    encoder: of the group encoder.
    """

    ids: NDArray[np.uint32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    values: Mapping[str, NDArray[np.floating]]
    names: Mapping[str, Sequence[str]]
    touching: NDArray[np.int64] | None = None
    step: float | None = None
    encoder: FeatureColumn | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, kept: NDArray[np.int64]) -> Nodes:
        """The nodes at ``kept``, ascending, and the pairs of them."""
        touching = self.touching
        if touching is not None:
            number = np.full(len(self), -1, np.int64)
            number[kept] = np.arange(len(kept))
            touching = number[touching]
            touching = touching[(touching >= 0).all(1)]
        values = {name: vectors[kept] for name, vectors in self.values.items()}
        return replace(self, ids=self.ids[kept], x=self.x[kept], y=self.y[kept], values=values, touching=touching)


@dataclass(frozen=True)
class NodeFiles:
    """Files with the nodes of a slide, as far as its graph needs them.

    table: patch table. features: of the patches. scores: predictions of the patches. cells: cell table. labels: label
    image of a segmentation, the folder of the store.
    """

    table: Path | None = None
    features: Path | None = None
    scores: Path | None = None
    cells: Path | None = None
    labels: Path | None = None


def lost_before(files: NodeFiles) -> Quarantined | None:
    """The quarantine entry that a file has in place of the nodes: of a slide whose damage was met before."""
    given = ((ENTRIES[field.name], getattr(files, field.name)) for field in fields(files))
    return next((entry for read, path in given if path is not None if (entry := read(path)) is not None), None)


ENTRIES: dict[str, Callable[[Path], Quarantined | None]] = {
    "table": lambda path: quarantined(PatchTableRecord.decode(record_text(path), path)),
    "features": lambda path: quarantined(read_features(path).record),
    "scores": lambda path: lost_slide(pq.read_schema(path).empty_table()),
    "cells": lambda path: quarantined(read_record(path)),
    "labels": lost_store,
}
"""How the quarantine entry in each of the `NodeFiles` is read."""


def one_hot(codes: NDArray[np.integer], count: int) -> NDArray[np.float32]:
    """1 in the column of each code, float32 (n, count); 0 everywhere for a negative code."""
    return (codes[:, None] == np.arange(count)).astype(np.float32)


def of_patches(files: NodeFiles, graph: Graph, class_names: Sequence[str]) -> Nodes:
    """The kept patches of a slide. Raises SlideError for a slide in quarantine."""
    assert files.table is not None
    table, record = read_table(files.table)
    grid = SlideGrid.of_table(usable(record))
    table = table.filter(pc.equal(table["excluded"].cast("string"), ""))
    ids, half = table["patch_id"].to_numpy(), grid.span / 2
    values: dict[str, NDArray[np.floating]] = {}
    names: dict[str, Sequence[str]] = {}
    encoder = None
    if files.features is not None:
        column = str(graph.encoder)
        found = read_features(files.features)
        encoder = found.column(column)
        values["encoder"] = found.vectors(column)[rows_of(found, ids, path=files.features)]
        names["encoder"] = [f"encoder_{i}" for i in range(values["encoder"].shape[1])]
    if files.scores is not None:
        values["classes"] = _scores(files.scores, ids, class_names)
        names["classes"] = [f"score_{name}" for name in class_names]
    x, y = (table[axis].to_numpy().astype(np.float64) + half for axis in ("x", "y"))
    return Nodes(ids, x, y, values, names, step=grid.step, encoder=encoder)


def _scores(path: Path, ids: NDArray[np.uint32], class_names: Sequence[str]) -> NDArray[np.float32]:
    table = pq.read_table(path)
    known = table["patch_id"].to_numpy()
    rows = np.searchsorted(known, ids)
    if len(ids) and (not len(known) or (known[np.minimum(rows, len(known) - 1)] != ids).any()):
        raise HistomakeError(f"{path} lacks patches of the patch table; delete it and run the workflow again")
    return np.stack([table[f"score_{name}"].to_numpy()[rows] for name in class_names], axis=1)


def of_cells(files: NodeFiles, graph: Graph, class_names: Sequence[str]) -> Nodes:
    """The cells of a slide. Raises SlideError for a slide in quarantine, and if classes are asked for and unknown."""
    assert files.cells is not None
    table, record = read_cells(files.cells)
    known = usable(record)
    values: dict[str, NDArray[np.floating]] = {}
    names: dict[str, Sequence[str]] = {}
    for group in graph.features:
        if group == "class":
            if not known.class_names:
                raise SlideError(
                    Reason.BAD_ANNOTATION,
                    slide_id=known.slide_id,
                    path=files.cells,
                    detail="the features of the graph have the class of a cell, and the cells have none",
                    remedy="Remove class from the features of the graph, or use a source of cells with classes",
                )
            codes = pc.index_in(table["class"].cast("string"), pa.array(list(class_names), pa.string()))
            values[group] = one_hot(codes.fill_null(-1).to_numpy(), len(class_names))
            names[group] = [f"is_{name}" for name in class_names]
        elif columns := _columns(group, table):
            values[group] = np.stack([table[name].to_numpy().astype(np.float32) for name in columns], axis=1)
            names[group] = columns
    x, y = (table[axis].to_numpy().astype(np.float64) for axis in ("x", "y"))
    return Nodes(table["cell_id"].to_numpy(), x, y, values, names)


def _columns(group: str, table: pa.Table) -> list[str]:
    if group == "neighbours":
        return [name for name in table.column_names if name.startswith("neighbours_")]
    return list(CELL_COLUMNS.get(group, ()))


def centred(nodes: Nodes, manifest: Manifest) -> NDArray[np.float32]:
    """Positions float32 (n, 2) in mm from their mean."""
    places = np.stack([nodes.x, nodes.y], axis=1) * manifest.mpp / 1000
    return (places - places.mean(0) if len(nodes) else places).astype(np.float32)


def structure(count: int, pairs: NDArray[np.int64], length: NDArray[np.float32]) -> NDArray[np.float32]:
    """Number of edges of each of ``count`` nodes and their mean length in µm, 0 without edges; float32 (n, 2)."""
    degree = np.bincount(pairs.ravel(), minlength=count)
    total = np.bincount(pairs.ravel(), weights=np.repeat(length, 2), minlength=count)
    return np.stack([degree, total / np.maximum(degree, 1)], axis=1).astype(np.float32)
