"""Benchmarks of cells: a table of a million cells, parting of cells that touch, nuclei of other stains and scanners."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import zarr
from histomake.cells.parting import parted
from histomake.config import Convert
from histomake.slide.convert import convert

from tests.bench import foreign_nuclei
from tests.bench.bench_radhical import ALL_IMAGES, trained_example
from tests.bench.figures import Figure
from tests.bench.slides import big_slide
from tests.workshop import ROOT

EDGE, STEP, CELLS = 24_576, 24, 1_000_000
"""A slide, and the distance of the cells on it, in pixels: 1,024 x 1,024 cells, of which the first million are kept."""

TABLE = """
import json, resource, sys, time
from pathlib import Path
from histomake.base.records.manifest import Manifest
from histomake.cells.drawn import from_mask
from histomake.cells.table import tabulate_cells, write_cells
from histomake.config import Cells
from histomake.slide.reader import open_slide

folder, config = Path(sys.argv[1]), Cells(source="annotation")
manifest = Manifest.read_usable(folder / "big.json")
start = time.perf_counter()
source = from_mask(folder / "cells.zarr", manifest, config)
table = tabulate_cells(source, open_slide(folder / "big.json"), manifest, config)
write_cells(table, folder / "cells.parquet")
print(json.dumps({
    "seconds": time.perf_counter() - start,
    "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    "cells": table.num_rows,
    "bytes": table.nbytes / table.num_rows,
    "stored": (folder / "cells.parquet").stat().st_size / table.num_rows,
    "neighbours": float(table["neighbours_50um"].to_numpy().mean()),
}))
"""


def run(work: Path) -> list[Figure]:
    """Make the table of a million cells in a process of one thread, and part a million touching discs."""
    folder = work / "cells"
    folder.mkdir(exist_ok=True)
    manifest = folder / "big.json"
    if not manifest.is_file():
        convert(big_slide(work, EDGE), folder / "big.zarr", slide_id="big", config=Convert(), mpp=None).write(manifest)
    _numbered(folder / "cells.zarr")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {"PYTHONPATH": str(ROOT / "scripts"), "PATH": "/usr/bin:/bin", **threads}
    done = subprocess.run(
        [sys.executable, "-c", TABLE, str(folder)], check=True, capture_output=True, text=True, env=environment
    )
    found = json.loads(done.stdout.splitlines()[-1])
    note = f"with reading of the slide; {found['neighbours']:.0f} neighbours within 50 µm"
    exact = found["cells"] == CELLS
    return [
        Figure("cells: rows of a million cells", found["cells"], f"= {CELLS}", exact),
        Figure("cells: table of a million cells", found["seconds"], "<= 60", found["seconds"] <= 60, "s", note),
        Figure("cells: table of a million cells, memory", found["gb"], "<= 2", found["gb"] <= 2, "GB"),
        Figure("cells: bytes a cell in memory", found["bytes"], "<= 100", found["bytes"] <= 100),
        Figure("cells: bytes a cell in the file", found["stored"], "<= 100", found["stored"] <= 100),
        _parting(),
        *_foreign(work),
    ]


def _foreign(work: Path) -> list[Figure]:
    """Show images of other stains, scanners and sizes to the cascade of the nuclei example, trained if it is not."""
    example = work / "radhical"
    trained_example(example)
    return foreign_nuclei.measure(example, ALL_IMAGES, work / "foreign_nuclei")


def _disc(radius: int) -> np.ndarray:
    y, x = np.mgrid[:STEP, :STEP] - STEP // 2
    return y**2 + x**2 <= radius**2


def _numbered(path: Path) -> None:
    """Write a mask of a million numbered discs, band by band."""
    if path.is_dir():
        return
    across = EDGE // STEP
    chunks = (STEP * 32, EDGE)
    mask = zarr.create_array(path, shape=(EDGE, EDGE), dtype="uint32", chunks=chunks, overwrite=True)
    for top in range(0, across, 32):
        rows = range(top, min(top + 32, across))
        numbers = np.arange(rows.start * across + 1, rows.stop * across + 1, dtype=np.uint32).reshape(-1, across)
        numbers[numbers > CELLS] = 0
        band = np.kron(numbers, np.ones((STEP, STEP), np.uint32)) * np.tile(_disc(9), (len(rows), across))
        mask[top * STEP : top * STEP + band.shape[0], : band.shape[1]] = band


def _parting() -> Figure:
    """Part discs that touch their neighbours: one piece over the whole grid, the hardest case."""
    disc, edge = _disc(STEP // 2), 4096
    count = (edge // STEP) ** 2
    tiles = np.tile(disc, (edge // STEP, edge // STEP))
    mask = np.zeros((edge, edge), bool)
    mask[: tiles.shape[0], : tiles.shape[1]] = tiles
    start = time.perf_counter()
    found = sum(tile.count for tile in parted(lambda w: mask[w.slices], mask.shape, depth=1))
    seconds = time.perf_counter() - start
    note = f"{count:,} touching discs in {seconds:.1f} s, {seconds / mask.size * 1e9:.0f} s per 1,000 megapixels"
    return Figure("cells: touching discs, parted exactly", found, f"= {count}", found == count, "", note)
