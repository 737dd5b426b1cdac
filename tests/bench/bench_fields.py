"""Benchmark of a cohort of many small images: fields of view of 512 px, from files to patch tables."""

from __future__ import annotations

import shutil
import time
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import yaml

from tests.bench.figures import Figure
from tests.workshop import ROOT, Workshop

FIELDS, SIDE = 200, 512
BAR_SECONDS = 90


def run(work: Path) -> list[Figure]:
    """Return the seconds from 200 fields to their patch tables on two cores."""
    workshop = Workshop(work / "fields")
    shutil.rmtree(workshop.folder, ignore_errors=True)
    workshop.folder.mkdir(parents=True)
    workshop.copy_code()
    write_fields(workshop.folder)
    config = {"sheet": "fields.tsv", "results": "results", "grids": {"x20": {"mpp": 0.5, "size": 128}}}
    workshop.config.write_text(yaml.safe_dump(config))
    tables = [f"results/patches/x20/{name(number)}.parquet" for number in range(FIELDS)]
    start = time.monotonic()
    workshop.snakemake("--", *tables, timeout=1800)
    seconds = time.monotonic() - start
    what = f"{FIELDS} fields of {SIDE} px, convert to tables, 2 cores"
    return [Figure(what, seconds, f"<= {BAR_SECONDS}", seconds <= BAR_SECONDS, "s")]


def name(number: int) -> str:
    """The slide_id of a field."""
    return f"F{number:03}"


def write_fields(folder: Path) -> None:
    """Write the fields, tiled from the nuclei images of the tests with some noise, and their sheet."""
    sources = [cv2.imread(str(path)) for path in sorted((ROOT / "tests" / "data" / "nuclei").glob("*.png"))]
    rows = ["slide_id\tpath\tpatient_id\tmpp"]
    (folder / "fields").mkdir()
    for number, source in zip(range(FIELDS), cycle(sources), strict=False):
        repeats = [SIDE // length + 1 for length in source.shape[:2]]
        field = np.tile(source, (*repeats, 1))[:SIDE, :SIDE].astype(np.int16)
        field += np.random.default_rng(number).integers(-3, 4, field.shape, np.int16)
        path = Path("fields") / f"{name(number)}.png"
        cv2.imwrite(str(folder / path), np.clip(field, 0, 255).astype(np.uint8))
        rows.append(f"{name(number)}\t{path}\tP{number:03}\t0.5")
    (folder / "fields.tsv").write_text("\n".join([*rows, ""]))
