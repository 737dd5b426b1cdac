"""Patch tables and predictions of a finished cohort. Of each kind there are a few contents, which all slides share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from histomake.config import Grid
from histomake.patch.table import METADATA_KEY

from tests import sample_records
from tests.bench.slides import MPP

SIDE = 24_576
"""Width and height of every slide, in px."""
START = 7_168
"""Left and upper end of the patches, which lie on the tissue in the middle."""
CLASSES = ["skin", "nuclei"]
LABELS = ["no", "yes"]
"""Outputs of tasks on patches and on slides."""


class Lattice(NamedTuple):
    """The patches of a grid: ``span`` is the edge of one in level-0 px."""

    grid: Grid
    columns: int
    patches: int
    span: int


LATTICES = {
    "x10": Lattice(Grid(mpp=1.0, size=128), 40, 1_250, 256),
    "x2": Lattice(Grid(mpp=4.0, size=64), 20, 320, 512),
}
"""Patches of every slide, by grid. Those of x2 cover the same tissue."""

GRID_OF = {"tissue_kind": "x10", "coarse": "x2", "cheap_bag": "x2", "adaptive_bag": "x10"}
"""Grid of each task."""


def positions(grid: str) -> dict[str, np.ndarray]:
    """Return number and position of the patches of every slide."""
    _, columns, patches, span = LATTICES[grid]
    number = np.arange(patches)
    x, y = START + number % columns * span, START + number // columns * span
    return {"patch_id": number.astype(np.uint32), "x": x.astype(np.int32), "y": y.astype(np.int32)}


def usable(grid: str, number: int) -> np.ndarray:
    """Return which patches of the content ``number`` are not excluded, bool (patches,)."""
    patches = LATTICES[grid].patches
    return np.random.default_rng([number, patches]).random(patches) < 0.5


def patch_table(wildcards: Mapping[str, str], number: int) -> pa.Table:
    """Return a patch table, with columns as written by `tabulate`."""
    random, name = np.random.default_rng(number), wildcards["grid"]
    lattice = LATTICES[name]
    table = pa.table(
        {
            **positions(name),
            "tissue": random.random(lattice.patches).astype(np.float32),
            "area_skin": np.zeros(lattice.patches, np.float32),
            "area_nuclei": np.zeros(lattice.patches, np.float32),
            "excluded": pa.array(np.where(usable(name, number), "", "background")).dictionary_encode(),
        }
    )
    record = sample_records.patch_table(grid=lattice.grid, grid_name=name, width=SIDE, height=SIDE, mpp=MPP)
    return table.replace_schema_metadata({METADATA_KEY: record.encode("table")})


def prediction_table(wildcards: Mapping[str, str], number: int) -> pa.Table:
    """Return a prediction table of a task on patches, with columns as written by `predict_slide`."""
    random, places = np.random.default_rng(number), positions(GRID_OF[wildcards["task"]])
    count = len(places["x"])
    score = random.random(count).astype(np.float32)
    names = pa.array(CLASSES)
    codes = pa.array((score > 0.5).astype(np.int32))
    return pa.table(
        {
            **places,
            "tissue": random.random(count).astype(np.float32),
            "score_skin": 1 - score,
            "score_nuclei": score,
            "predicted": pa.DictionaryArray.from_arrays(codes, names),
            "label": pa.nulls(count, pa.dictionary(pa.int32(), pa.string())),
        }
    )
