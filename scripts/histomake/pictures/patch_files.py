"""Kept patches as image files, for other programs."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from histomake.base.files import atomic_file
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined
from histomake.base.units import Level0Pixels
from histomake.patch.grid import SlideGrid
from histomake.patch.table import KEPT, read_table
from histomake.pictures.canvas import write_picture
from histomake.slide.reader import open_slide

TABLE = "patches.tsv"
AT_ONCE = 64
"""Patches that are read together, so that tiles they share are decoded once."""


def write_patches(
    layout: Layout, grid: str, slides: Sequence[str], folder: Path, *, most: int | None, seed: int, suffix: str
) -> Iterator[tuple[str, int]]:
    """Write the kept patches of slides as ``{slide}/{x}_{y}.{suffix}``, and their rows of the patch tables as a table.

    Yields each slide with its number of patches, 0 of a slide in quarantine. ``most``: patches of a slide, drawn at
    random by ``seed`` and slide; null for all. The table is complete when the last slide was yielded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / TABLE) as aside, aside.open("w", newline="") as stream:
        writer: csv.DictWriter[str] | None = None
        for slide in slides:
            table, record = read_table(layout.table(grid, slide))
            if isinstance(record, Quarantined):
                yield slide, 0
                continue
            rows = _chosen(table, most, np.random.default_rng([seed, zlib.crc32(slide.encode())]))
            shape, fields = SlideGrid.of_table(record).grid, [n for n in table.column_names if n != "excluded"]
            if writer is None:
                writer = csv.DictWriter(stream, ["file", "slide_id", *fields], delimiter="\t", extrasaction="ignore")
                writer.writeheader()
            (folder / slide).mkdir()
            with open_slide(layout.manifest(slide)) as reader:
                for first in range(0, len(rows), AT_ONCE):
                    part = rows[first : first + AT_ONCE]
                    places = [(Level0Pixels(int(row["x"])), Level0Pixels(int(row["y"]))) for row in part]
                    pixels = reader.read_many(places, shape.size, shape.mpp)
                    for row, patch in zip(part, pixels, strict=True):
                        name = f"{slide}/{row['x']}_{row['y']}.{suffix}"
                        write_picture(patch, folder / name)
                        writer.writerow({"file": name, "slide_id": slide, **row})
            yield slide, len(rows)


def _chosen(table: pa.Table, most: int | None, rng: np.random.Generator) -> list[dict[str, int | float]]:
    """The rows of kept patches, in the order of the table; at most so many of them."""
    kept = np.flatnonzero(np.asarray(table["excluded"].cast(pa.string()).to_pylist(), object) == KEPT)
    if most is not None and most < len(kept):
        kept = np.sort(rng.choice(kept, most, replace=False))
    return table.drop_columns(["excluded"]).take(pa.array(kept)).to_pylist()
