"""Owns the examples of a report: patches of test slides that the model got right, hardly, and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from histomake.base.kinds import BACKGROUND
from histomake.base.layout import Layout
from histomake.base.units import Level0Pixels
from histomake.config import Task
from histomake.explain.chosen import Ranking, rankings
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table
from histomake.pictures import canvas
from histomake.pictures.findings import labels_on
from histomake.report import page
from histomake.report.page import Html
from histomake.slide.reader import open_slide
from histomake.target.outputs import outputs_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLES = 7
EXAMPLE_PX = 132


def examples(name: str, task: Task, layout: Layout, folds: Sequence[int]) -> list[Html]:
    """Rows of patches, each for one reason."""
    table = tested_patches(name, layout, folds)
    if not table.num_rows:
        return [page.tag("p", "No patch of a test slide was predicted.", class_="warn")]
    outputs = outputs_of(task.kind, task.target)
    ranked = right_and_wrong(table, outputs) if task.kind == "classification" else rankings(table, task.kind)
    parts: list[Html] = []
    for ranking in ranked:
        parts.append(page.tag("h4", f"{ranking.reason[0].upper()}{ranking.reason[1:]}"))
        shown = [_example(name, task, layout, row) for row in table.take(ranking.rows[:EXAMPLES]).to_pylist()]
        parts.append(page.tag("div", *shown, class_="row") if shown else page.tag("p", "None."))
    return parts


def tested_patches(name: str, layout: Layout, folds: Sequence[int]) -> pa.Table:
    """The predictions of all test slides, with slide_id and fold."""
    parts = []
    for row in pq.read_table(layout.split(name)).to_pylist():
        if row["role"] == "test" and row["fold"] in folds:
            table = pq.read_table(layout.prediction(name, row["fold"], row["slide_id"]))
            for column in ("slide_id", "fold"):
                table = table.append_column(column, pa.array([row[column]] * table.num_rows))
            parts.append(table)
    return pa.concat_tables(parts, promote_options="permissive")


def right_and_wrong(table: pa.Table, classes: Sequence[str]) -> list[Ranking]:
    """Labelled patches: per class right and surely so, right with least certainty, and wrong with most."""
    label, predicted = (np.array(table[c].cast(pa.string()).to_pylist(), object) for c in ("label", "predicted"))
    scores = np.stack([table[f"score_{name}"].to_numpy() for name in classes], axis=1)
    known = np.array([name is not None for name in label], bool)
    right, certainty = label == predicted, scores.max(axis=1)

    def ranked(reason: str, members: NDArray[np.bool_], *, surest: bool) -> Ranking:
        rows = np.flatnonzero(members)
        order = np.argsort(-certainty[rows] if surest else certainty[rows], kind="stable")
        return Ranking(f"{reason} ({len(rows):,} in all)", rows[order])

    return [
        *(ranked(f"{name}, right and most certain", right & (label == name), surest=True) for name in classes),
        ranked("right, least certain", right & known, surest=False),
        ranked("wrong, most certain first", ~right & known, surest=True),
    ]


def _example(name: str, task: Task, layout: Layout, row: dict) -> Html:
    slide_grid = SlideGrid.of_table(read_table(layout.table(task.grid, row["slide_id"]))[1])
    span = Level0Pixels(round(slide_grid.span))
    with open_slide(layout.manifest(row["slide_id"])) as reader:
        thumb = canvas.region(reader, (row["x"], row["y"], span, span), min(slide_grid.grid.size, 2 * EXAMPLE_PX))
    pixels, width = thumb.pixels, EXAMPLE_PX
    if task.kind == "segmentation":
        store = layout.prediction(name, row["fold"], row["slide_id"]).with_suffix(".labels.zarr")
        found = labels_on(thumb, store, slide_grid.scale)
        colours = {i + 1: c for i, c in enumerate(canvas.class_colours(task.target.classes).values())}
        pixels, width = canvas.beside([pixels, canvas.paint_labels(pixels, found, colours)], 4), 2 * EXAMPLE_PX
    place = f"{row['slide_id']} ({row['x']}, {row['y']})"
    return page.picture(pixels, Html(f"{page.safe(place)}<br>{page.safe(_said(task, row))}"), width=width)


def _said(task: Task, row: dict) -> str:
    """What the model says of a patch, and what is true, where that is known and not a class."""
    outputs = outputs_of(task.kind, task.target)
    if task.kind == "segmentation":
        parts = []
        for name in outputs:
            hit, rest = row[f"tp_{name}"], row[f"fp_{name}"] + row[f"fn_{name}"]
            if name != BACKGROUND and hit + rest:
                parts.append(f"{name}: Dice {2 * hit / (2 * hit + rest):.2f}")
        return ", ".join(parts) or "nothing but background"
    if task.kind == "regression":
        true = {name: row[f"target_{name}"] for name in outputs}
        return ", ".join(
            f"{n} {row[f'score_{n}']:.3g}" + (f" (true {v:.3g})" if v is not None else "") for n, v in true.items()
        )
    return ", ".join(f"{name} {row[f'score_{name}']:.2f}" for name in outputs)
