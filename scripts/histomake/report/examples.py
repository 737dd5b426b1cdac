"""Examples in the report: patches of test slides, chosen by rankings that fit the kind of task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from histomake.base.errors import SlideError
from histomake.base.files import store_of
from histomake.base.layout import Layout
from histomake.base.units import Level0Pixels
from histomake.config import Task
from histomake.explain.kinds import EXPLAINED
from histomake.explain.rankings import Ranking, attention_rankings
from histomake.explain.summaries import bag_text
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table
from histomake.pictures import canvas
from histomake.pictures.findings import labels_on
from histomake.report import page
from histomake.report.page import Html
from histomake.slide.reader import open_slide
from histomake.target.kinds import LEARNED
from histomake.target.outputs import outputs_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLES = 6
"""Patches of a row: as many as fit side by side on a page."""
EXAMPLE_PX = 132
ORDER_IN_BAGS = (
    "Attention and contributions are multiplied by the number of patches of the bag before they are compared, because "
    "each patch of a large bag has a small part of the whole."
)


def examples(name: str, task: Task, layout: Layout, folds: Sequence[int]) -> list[Html]:
    """One row of patches per ranking."""
    table = tested_patches(name, layout, folds)
    if not table.num_rows:
        return [page.tag("p", "The test slides have no predicted patch.", class_="warn")]
    parts = [page.tag("p", ORDER_IN_BAGS)] if task.on_bags else []
    for ranking in _rankings(table, task):
        parts.append(page.tag("h4", f"{ranking.reason[0].upper()}{ranking.reason[1:]}"))
        shown = [_example(name, task, layout, row) for row in table.take(ranking.rows[:EXAMPLES]).to_pylist()]
        parts.append(page.tag("div", *shown, class_="row") if shown else page.tag("p", "None."))
    return parts


def _rankings(table: pa.Table, task: Task) -> list[Ranking]:
    outputs = outputs_of(task.kind, task.target)
    if not task.on_bags:
        return EXPLAINED[task.kind].examples(table, outputs)
    bag = "patient_id" if task.level == "patient" else "slide_id"
    return attention_rankings(table, outputs, bag=bag, exclusive=LEARNED[task.kind].exclusive)


def tested_patches(name: str, layout: Layout, folds: Sequence[int]) -> pa.Table:
    """The predictions of all test slides, with slide_id, patient_id and fold."""
    parts = []
    for row in pq.read_table(layout.split(name)).to_pylist():
        if row["role"] == "test" and row["fold"] in folds:
            # Of a small file, read_table takes twice as long: there are hundreds of test slides.
            table = pq.ParquetFile(layout.prediction(name, row["fold"], row["slide_id"])).read()
            for column in ("slide_id", "patient_id", "fold"):
                table = table.append_column(column, pa.array([row[column]] * table.num_rows))
            parts.append(table)
    return pa.concat_tables(parts, promote_options="permissive")


def _example(name: str, task: Task, layout: Layout, row: dict) -> Html:
    """A patch with its text; of a slide that is damaged by now, the text alone."""
    place = f"{row['slide_id']} ({row['x']}, {row['y']})"
    try:
        pixels, width = _pixels(name, task, layout, row)
    except SlideError as error:
        return page.tag("p", f"{place}: {error.detail}", class_="warn")
    describe = bag_text if task.on_bags else EXPLAINED[task.kind].patch_text
    text = describe(row, outputs_of(task.kind, task.target))
    return page.picture(pixels, Html(f"{page.safe(place)}<br>{page.safe(text)}"), width=width)


def _pixels(name: str, task: Task, layout: Layout, row: dict) -> tuple[NDArray[np.uint8], int]:
    """Pixels of a patch, of a segmentation with its labels, and the width of the picture."""
    slide_grid = SlideGrid.of_table(read_table(layout.table(task.grid, row["slide_id"]))[1])
    span = Level0Pixels(round(slide_grid.span))
    with open_slide(layout.manifest(row["slide_id"])) as reader:
        thumb = canvas.region(reader, (row["x"], row["y"], span, span), min(slide_grid.grid.size, 2 * EXAMPLE_PX))
    pixels, width = thumb.pixels, EXAMPLE_PX
    if LEARNED[task.kind].per_pixel:
        store = store_of(layout.segmentation(name, row["fold"], row["slide_id"]))
        found = labels_on(thumb, store, slide_grid.scale)
        colours = {i + 1: c for i, c in enumerate(canvas.class_colours(task.target.classes).values())}
        pixels, width = canvas.beside([pixels, canvas.paint_labels(pixels, found, colours)], 4), 2 * EXAMPLE_PX
    return pixels, width
