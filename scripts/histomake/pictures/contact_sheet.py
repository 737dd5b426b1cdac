"""Contact sheet for the audit of patch selection: random kept and excluded patches of a slide, with the reasons."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.record import Quarantined
from histomake.base.units import Level0Pixels, Mpp
from histomake.config import Grid
from histomake.patch.grid import SlideGrid
from histomake.patch.table import KEPT
from histomake.pictures import canvas

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import ImageFont

    from histomake.slide.reader import SlideReader

COLUMNS = 8
THUMB_PX = 128
TEXT_PX = 11
GAP_PX = 10
KEPT_COLOUR, EXCLUDED_COLOUR = (0, 114, 178), (180, 74, 0)
"""Blue and vermilion can be distinguished with common colour deficiencies and are dark enough for small text."""
FRAME = (208, 215, 222)
"""Around patches, since those of glass are white."""


def contact_sheet(
    reader: SlideReader, table: pa.Table, record: PatchTableRecord, path: Path | str, *, patches: int, seed: int
) -> None:
    """Draw up to ``patches`` random kept patches and as many excluded ones of a slide as a PNG.

    Excluded patches are drawn evenly from all reasons, so that rare reasons are shown beside frequent background.

    Args:
        reader: The slide.
        table: The patch table, as returned by `histomake.patch.table.read_table`.
        record: The record of the patch table.
        path: The PNG.
        patches: Number of kept and of excluded patches.
        seed: Seed of the random choice, combined with the slide id.
    """
    rng = np.random.default_rng([seed, zlib.crc32(record.slide_id.encode())])
    reasons = np.asarray(table["excluded"].cast(pa.string()).to_pylist(), dtype=object)
    chosen = [*_draw(np.flatnonzero(reasons == KEPT), patches, rng), *_draw_evenly(reasons, patches, rng)]
    rows = table.select(["x", "y", "tissue"]).take(pa.array(chosen, pa.int64())).to_pylist()
    grid, face = SlideGrid.of_table(record).grid, canvas.font(TEXT_PX)
    cells = []
    for row, index in zip(rows, chosen, strict=True):
        thumbnail = _thumbnail(reader, Level0Pixels(row["x"]), Level0Pixels(row["y"]), grid)
        lines = f"{reasons[index] or 'kept'}  {row['tissue']:.0%}\n{row['x']}, {row['y']}"
        cells.append(_cell(thumbnail, lines, EXCLUDED_COLOUR if reasons[index] else KEPT_COLOUR, face))
    # Of the same width whatever the number of patches, so that the heading has room.
    blank = np.full((1, THUMB_PX, 3), 255, np.uint8)
    cells += [blank] * (COLUMNS - len(cells))
    margin = ((0, canvas.MARGIN_PX), (canvas.MARGIN_PX,) * 2, (0, 0))
    sheet = np.pad(canvas.in_rows(cells, COLUMNS, GAP_PX), margin, constant_values=255)
    canvas.write_picture(canvas.headed(sheet, _title(table, record)), Path(path))


def no_contact_sheet(outcome: Quarantined, path: Path | str) -> None:
    """Write an image with the reason why a quarantined slide has no patches, in place of its contact sheet."""
    canvas.write_picture(canvas.quarantine_card(outcome), Path(path))


def _thumbnail(reader: SlideReader, x: Level0Pixels, y: Level0Pixels, grid: Grid) -> NDArray[np.uint8]:
    size = min(grid.size, THUMB_PX)
    return reader.read(x, y, size, Mpp(grid.mpp * grid.size / size))


def _cell(
    thumbnail: NDArray[np.uint8], lines: str, colour: canvas.Colour, face: ImageFont.FreeTypeFont
) -> NDArray[np.uint8]:
    """A patch of the width of a column, with two lines of text above it."""
    top = 2 * (TEXT_PX + 4)
    cell = Image.new("RGB", (THUMB_PX, top + THUMB_PX), "white")
    shown = cv2.resize(thumbnail, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_NEAREST)
    cell.paste(Image.fromarray(np.asarray(shown, np.uint8)), (0, top))
    draw = ImageDraw.Draw(cell)
    draw.multiline_text((0, 0), lines, fill=colour, font=face, spacing=2)
    draw.rectangle((0, top, THUMB_PX - 1, top + THUMB_PX - 1), outline=FRAME)
    return np.asarray(cell)


def _draw(candidates: NDArray[np.intp], count: int, rng: np.random.Generator) -> list[int]:
    return sorted(rng.choice(candidates, min(count, candidates.size), replace=False).tolist())


def _draw_evenly(reasons: NDArray[np.object_], count: int, rng: np.random.Generator) -> list[int]:
    """Draw up to ``count`` excluded rows, as evenly from all reasons as possible, grouped by reason."""
    by_reason = {r: rng.permutation(np.flatnonzero(reasons == r)) for r in sorted({*reasons} - {KEPT})}
    quota = dict.fromkeys(by_reason, 0)
    while sum(quota.values()) < count and any(quota[r] < rows.size for r, rows in by_reason.items()):
        reason = min((r for r in by_reason if quota[r] < by_reason[r].size), key=lambda r: quota[r])
        quota[reason] += 1
    return [int(row) for reason, rows in by_reason.items() for row in rows[: quota[reason]]]


def _title(table: pa.Table, record: PatchTableRecord) -> str:
    counts = pc.value_counts(table["excluded"].cast(pa.string())).to_pylist()
    listed = ", ".join(f"{c['values'] or 'kept'} {c['counts']:,}" for c in sorted(counts, key=lambda c: -c["counts"]))
    grid = SlideGrid.of_table(record).grid
    size = f"patches of {grid.size * grid.mpp:g} µm"
    return f"{record.slide_id}, grid {record.grid_name}, {size}: {listed or 'no patches'}"
