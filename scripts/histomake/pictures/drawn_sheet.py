"""Contact sheet of the patches that a training has drawn, for the audit of its sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.base.records.model_card import ModelCard
from histomake.config import Grid
from histomake.learn.data.drawn_patches import FILE
from histomake.pictures.patch_sheet import Place, patch_sheet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def drawn_sheet(
    layout: Layout, task: str, fold: int, *, batches: Sequence[int] | None, patches: int
) -> NDArray[np.uint8]:
    """Draw the first ``patches`` patches of each batch as a picture uint8 (h, w, 3), in rows.

    Patches are shown as they lie on the slide, before augmentation. ``batches``: their numbers, from 0; by default the
    first, the middle and the last one. Raises HistomakeError if the draws were not recorded, or there is no such batch.
    """
    path = layout.training_details(task, fold) / FILE
    if not path.is_file():
        raise HistomakeError(f"{path} does not exist: the draws of a training are recorded with train.audit: true")
    drawn = pq.read_table(path).sort_by([("step", "ascending"), ("worker", "ascending")])
    known = pc.unique(drawn["step"]).to_pylist()
    wanted = batches or sorted({known[0], known[len(known) // 2], known[-1]})
    if unknown := sorted({*wanted} - {*known}):
        raise HistomakeError(
            f"{path} has the batches {known[0]} to {known[-1]}, but not {', '.join(map(str, unknown))}"
        )
    places: list[Place] = []
    for batch in wanted:
        rows = drawn.filter(pc.equal(drawn["step"], batch)).slice(0, patches).to_pylist()
        places += [(row["slide_id"], row["x"], row["y"], f"{batch}: {_label_of(row)}") for row in rows]
    shape = ModelCard.read(layout.description(task, fold)).grid
    title = f"Patches drawn by {task}, fold {fold}, before augmentation; above each: batch, slide and reader"
    return patch_sheet(layout, Grid(size=shape.size, mpp=shape.mpp), places, title=title)


def _label_of(row: dict[str, Any]) -> str:
    """Slide of a draw, and the reader whose label was learned, if it is not that of the slide."""
    return ", ".join(filter(None, (row["slide_id"], row.get("reader"))))
