"""Contact sheet for the audit of patch selection: random kept and excluded patches of a slide, with the reasons."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from histomake.base.files import atomic_file
from histomake.base.records.patch_table import PatchTableRecord
from histomake.base.records.record import Quarantined
from histomake.base.units import Level0Pixels, Mpp
from histomake.config import Grid
from histomake.patch.grid import SlideGrid
from histomake.patch.table import KEPT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histomake.slide.reader import SlideReader

COLUMNS = 8
THUMB_PX = 128
DPI = 80
KEPT_COLOUR, EXCLUDED_COLOUR = "#0072b2", "#b44a00"
"""Blue and vermilion can be distinguished with common colour deficiencies and are dark enough for small text."""


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
    rows = max(1, -(-len(chosen) // COLUMNS))
    figure = Figure(figsize=(COLUMNS * 1.3, rows * 1.55 + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(table, record), fontsize=9)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    x, y, tissue = (table[name].to_pylist() for name in ("x", "y", "tissue"))
    grid = SlideGrid.of_table(record).grid
    for axis, row in zip(axes, chosen, strict=False):
        axis.imshow(_thumbnail(reader, Level0Pixels(x[row]), Level0Pixels(y[row]), grid))
        colour = EXCLUDED_COLOUR if reasons[row] else KEPT_COLOUR
        axis.set_title(
            f"{reasons[row] or 'kept'}  {tissue[row]:.0%}\n{x[row]}, {y[row]}", fontsize=6, color=colour, pad=2
        )
    with atomic_file(path) as aside:
        figure.savefig(aside, format="png", dpi=DPI)


def no_contact_sheet(outcome: Quarantined, path: Path | str) -> None:
    """Write an image with the reason why a quarantined slide has no patches, in place of its contact sheet."""
    figure = Figure(figsize=(COLUMNS * 1.3, 1.2))
    FigureCanvasAgg(figure)
    text = f"{outcome.slide_id} is in quarantine ({outcome.reason}): {outcome.detail}"
    figure.text(0.02, 0.5, text, fontsize=9, color=EXCLUDED_COLOUR, va="center", wrap=True, parse_math=False)
    with atomic_file(path) as aside:
        figure.savefig(aside, format="png", dpi=DPI)


def _thumbnail(reader: SlideReader, x: Level0Pixels, y: Level0Pixels, grid: Grid) -> NDArray[np.uint8]:
    size = min(grid.size, THUMB_PX)
    return reader.read(x, y, size, Mpp(grid.mpp * grid.size / size))


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
