"""Benchmarks of patch tables and the catalog: time, memory and disk space, up to 100 million patches."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import shapely
from histomake.annotation.model import Annotation
from histomake.base.records.manifest import Manifest
from histomake.catalog.build import build_catalog
from histomake.config import Convert, Grid, Quality, Tissue
from histomake.patch.tabulate import tabulate, write_patch_table
from histomake.slide.convert import convert
from histomake.slide.reader import SlideReader
from histomake.tissue.artefacts import ArtefactMap, assess
from histomake.tissue.mask import TissueMask, presegment

from tests import sample_records
from tests.bench.figures import Figure
from tests.bench.slides import big_slide

ROOT = Path(__file__).resolve().parents[2]
RUNS = 5
MASK_MPP = 8.0
PATHFLOWAI_SLIDES, PATHFLOWAI_PATCHES = 295, 1_024_427
JPEG_QUALITY = 75

CATALOG = """
import json, os, sys, time
from pathlib import Path
import duckdb
from histomake.catalog.build import build_catalog

folder = Path(sys.argv[1])
names = sorted(p.stem for p in (folder / "patches").glob("*.parquet"))
stages = ("manifests", "tissue", "quality", "annotations")
files = {stage: [folder / stage / f"{n}.json" for n in names] for stage in stages}
start = time.perf_counter()
tables = {"x20": [folder / "patches" / f"{n}.parquet" for n in names]}
build_catalog(folder / "catalog.duckdb", **files, tables=tables, splits={}, predictions={}, memory_mb=4000, threads=2)
built = time.perf_counter() - start
# Not ru_maxrss, which includes the memory of the process from which this one was forked.
peak = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) / 1e6
queries = {}
with duckdb.connect(folder / "catalog.duckdb", read_only=True, config={"threads": 2}) as base:
    for name, query in {
        "excluded": "SELECT excluded, count(*) FROM patches_x20 GROUP BY 1",
        "slide, excluded": "SELECT slide_id, excluded, count(*), avg(tissue) FROM patches_x20 GROUP BY ALL",
    }.items():
        times = []
        for _ in range(5):
            start = time.perf_counter()
            rows = base.execute(query).fetchall()
            times.append(time.perf_counter() - start)
        queries[name] = sorted(times)[2]
    patches = base.execute("SELECT count(*) FROM patches_x20").fetchone()[0]
size = os.path.getsize(folder / "catalog.duckdb") / 1e6
print(json.dumps({"built": built, "peak_gb": peak, "queries": queries, "patches": patches, "mb": size}))
"""


def run(work: Path) -> list[Figure]:
    """Measure tabulation, catalogs of 295 and of 10,000 slides, and the cost of patches as JPEG files."""
    return [*_large_grid(), *_pathflowai(work / "cohort"), *_ten_thousand(work / "large"), *_chopping(work)]


def _median(work: Callable[[], object]) -> float:
    def timed() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return float(np.median([timed() for _ in range(RUNS)]))


def _slide(name: str, side: int, mpp: float, seed: int) -> tuple[Manifest, TissueMask, ArtefactMap]:
    """Return a square slide half covered by smooth tissue, a few per cent of it out of focus."""
    rng = np.random.default_rng(seed)
    pixels = math.ceil(side * mpp / MASK_MPP)
    field = cv2.resize(rng.random((24, 24)).astype(np.float32), (pixels, pixels), interpolation=cv2.INTER_CUBIC)
    mask = field > np.median(field)
    labels = ((field > np.quantile(field, 0.97)) * 2).astype(np.uint8)
    manifest = sample_records.manifest(name, sha256=f"{seed:064x}", width=side, height=side, mpp=mpp)
    return manifest, sample_records.tissue_mask(mask, MASK_MPP / mpp), sample_records.artefact_map(labels)


def _outlines(count: int, side: int, classes: list[str], seed: int) -> Annotation:
    """Return outlines of 200 vertices that resemble drawings and overlap in places."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    regions = []
    for i in range(count):
        radii = rng.uniform(0.005, 0.04) * side * (1 + 0.3 * np.sin(5 * angles) + 0.05 * rng.standard_normal(200))
        ring = np.c_[np.cos(angles) * radii, np.sin(angles) * radii] + rng.uniform(0, side, 2)
        shape = shapely.make_valid(shapely.Polygon(ring)).intersection(shapely.box(0, 0, side, side))
        regions.append((classes[i % len(classes)], shape))
    return Annotation(tuple(classes), regions)


def _large_grid() -> list[Figure]:
    side, grid, classes = 100_000, Grid(size=256, mpp=0.25), ["a", "b", "c", "d"]
    slide = _slide("s", side, 0.25, 0)
    drawn = _outlines(1000, side, classes, 0).regions

    def plain() -> int:
        return tabulate(*slide, Annotation((), []), grid, [], grid_name="x40", max_share=0.5).num_rows

    def annotated() -> int:
        # A new annotation each time, because its unions are cached per object and are part of the work.
        annotation = Annotation(tuple(classes), drawn)
        return tabulate(*slide, annotation, grid, classes, grid_name="x40", max_share=0.5).num_rows

    without, within = _median(plain), _median(annotated)
    cells = f"{plain():,} cells"
    return [
        Figure("tables: 100k x 100k grid, no annotation", without, "<= 1", without <= 1, "s", cells),
        Figure("tables: with 1,000 outlines of 200 vertices", within, "<= 8", within <= 8, "s", cells),
    ]


def _records(folder: Path, manifest: Manifest) -> None:
    name = manifest.slide_id
    records = {
        "manifests": manifest,
        "tissue": sample_records.tissue(name),
        "quality": sample_records.quality(name),
        "annotations": sample_records.no_annotation(name),
    }
    for stage, record in records.items():
        record.write(folder / stage / f"{name}.json")


def _pathflowai(folder: Path) -> list[Figure]:
    """Measure as many slides and patches as PathFlowAI stored in 44 MB of SQLite (Levy et al., 2020)."""
    classes, grid = ["a", "b", "c"], Grid(size=256, mpp=0.5)
    side = 256 * math.ceil(math.sqrt(PATHFLOWAI_PATCHES / PATHFLOWAI_SLIDES))
    cohort = [(_slide(f"s{i:03d}", side, 0.5, i), _outlines(12, side, classes, i)) for i in range(PATHFLOWAI_SLIDES)]
    start = time.perf_counter()
    for (manifest, tissue, artefacts), annotation in cohort:
        table = tabulate(manifest, tissue, artefacts, annotation, grid, classes, grid_name="x20", max_share=0.5)
        write_patch_table(table, folder / "patches" / f"{manifest.slide_id}.parquet")
    tabulated = time.perf_counter() - start
    for (manifest, _, _), _ in cohort:
        _records(folder, manifest)
    names = [manifest.slide_id for (manifest, _, _), _ in cohort]
    stages = ("manifests", "tissue", "quality", "annotations")
    files = {stage: [folder / stage / f"{name}.json" for name in names] for stage in stages}
    tables = {"x20": [folder / "patches" / f"{name}.parquet" for name in names]}
    start = time.perf_counter()
    build_catalog(folder / "catalog.duckdb", **files, tables=tables, splits={}, predictions={})
    seconds = tabulated + time.perf_counter() - start
    parquet = sum(path.stat().st_size for path in tables["x20"]) / 1e6
    base = (folder / "catalog.duckdb").stat().st_size / 1e6
    total, patches = parquet + base, PATHFLOWAI_SLIDES * (side // 256) ** 2
    note = f"{patches:,} patches: Parquet {parquet:.1f} MB, catalog {base:.1f} MB"
    return [
        Figure("catalog: 295 slides, size", total, "<= 15", total <= 15, "MB", note),
        Figure("catalog: 295 slides, tables and catalog", seconds, "<= 15", seconds <= 15, "s"),
    ]


def _ten_thousand(folder: Path) -> list[Figure]:
    """Measure 10,000 slides of 10,000 patches; their tables are links to twenty files, to save disk space."""
    classes, grid, side = ["a", "b", "c"], Grid(size=256, mpp=0.5), 25_600
    patterns = []
    for i in range(20):
        manifest, tissue, artefacts = _slide(f"p{i}", side, 0.5, i)
        outlines = _outlines(12, side, classes, i)
        table = tabulate(manifest, tissue, artefacts, outlines, grid, classes, grid_name="x20", max_share=0.5)
        patterns.append(folder / "patterns" / f"{i}.parquet")
        write_patch_table(table, patterns[-1])
    for stage in ("manifests", "tissue", "quality", "annotations", "patches"):
        (folder / stage).mkdir(exist_ok=True)
    for i in range(10_000):
        name = f"s{i:05d}"
        _records(folder, sample_records.manifest(name))
        link = folder / "patches" / f"{name}.parquet"
        if not link.exists():
            os.link(patterns[i % len(patterns)], link)
    command = [sys.executable, "-c", CATALOG, str(folder)]
    environment = {"PYTHONPATH": str(ROOT / "scripts"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    slowest = max(found["queries"].values())
    asked = ", ".join(f"{name}: {seconds:.2f} s" for name, seconds in found["queries"].items())
    note = f"{found['patches']:,} patches, built in {found['built']:.0f} s, {found['mb']:.0f} MB"
    return [
        Figure("catalog: 10,000 slides, peak memory", found["peak_gb"], "<= 8", found["peak_gb"] <= 8, "GB", note),
        Figure("catalog: 10,000 slides, GROUP BY", slowest, "<= 2", slowest <= 2, "s", asked),
    ]


def _chopping(work: Path) -> list[Figure]:
    """Compare the table of the 24k slide's kept patches with the same patches as JPEG files.

    Both start from the same tissue mask and use the same reader; the mask counts as disk space of the table.
    """
    store = work / "big.zarr"
    manifest = convert(big_slide(work, 24_576), store, slide_id="big", config=Convert(), mpp=None, threads=2)
    grid, table_path, chopped = Grid(size=256, mpp=manifest.mpp), work / "big.parquet", work / "chopped"
    chopped.mkdir(exist_ok=True)
    with SlideReader(store) as reader:
        tissue = presegment(reader, Tissue(), slide_id="big")
        tissue.save(work / "big.png", work / "big.json")
        artefacts = assess(reader, tissue, Quality())

        def tabulated() -> None:
            nothing = Annotation((), [])
            table = tabulate(manifest, tissue, artefacts, nothing, grid, [], grid_name="x20", max_share=0.5)
            write_patch_table(table, table_path)

        ready = _median(tabulated)
        table = tabulate(manifest, tissue, artefacts, Annotation((), []), grid, [], grid_name="x20", max_share=0.5)
        kept = table.to_pandas().query("excluded == ''")
        start = time.perf_counter()
        for x, y in zip(kept["x"], kept["y"], strict=True):
            patch = reader.read(x, y, 256, grid.mpp)
            cv2.imwrite(str(chopped / f"{x}_{y}.jpg"), patch[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        chop = time.perf_counter() - start
    ours = table_path.stat().st_size + (work / "big.png").stat().st_size
    theirs = sum(path.stat().st_size for path in chopped.iterdir())
    sooner, smaller = chop / ready, theirs / ours
    times = f"{len(kept):,} patches: {ready * 1e3:.0f} ms against {chop:.1f} s"
    sizes = f"{ours / 1e3:.0f} kB against {theirs / 1e6:.0f} MB of JPEG at quality {JPEG_QUALITY}"
    return [
        Figure("against chopping: sooner ready", sooner, ">= 100", sooner >= 100, "times", times),
        Figure("against chopping: less disk", smaller, ">= 1000", smaller >= 1000, "times", sizes),
    ]
