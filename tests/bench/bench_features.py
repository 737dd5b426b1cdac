"""Benchmarks of features: containers, one pass for several encoders, and the demo cohort."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
import zarr
from histomake.base.records.features import FeatureColumn, FeatureRecord
from histomake.base.records.manifest import Manifest
from histomake.base.units import Mpp
from histomake.config import Convert, Encoder, Grid
from histomake.features.encoders import ReadyEncoder, load_group
from histomake.features.extract import encode_pixels, read_pixels
from histomake.features.store import read_features, write_features
from histomake.learn.data.patch_index import SlideEntry
from histomake.slide.convert import convert
from safetensors.numpy import load_file, save_file
from torch import nn

from tests.bench.figures import Figure
from tests.bench.measure import ratio, side_by_side
from tests.bench.slides import big_slide
from tests.workshop import ROOT, Workshop

ROWS, LENGTH, DRAWN, ROUNDS = 20_000, 1280, 512, 9
WAITING = re.compile(r"patches in ([\d.]+) s, ([\d.]+) s of them waiting")


def run(work: Path) -> list[Figure]:
    """Compare containers, one pass with two passes, and encode the demo cohort."""
    folder = work / "features"
    folder.mkdir(exist_ok=True)
    return [*_containers(folder), *_one_pass(work), *_demo(folder / "demo"), *_waiting(work, folder / "demo")]


# --- containers -------------------------------------------------------------------------------------------------------


def _containers(folder: Path) -> list[Figure]:
    """Overhead over raw float16 and time of random rows, of the store and of containers that could take its place."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((ROWS, LENGTH)).astype(np.float16)
    ours = folder / "a.arrow"
    _write_ours(ours, vectors)
    peers: dict[str, tuple[Path, Callable[[np.ndarray], np.ndarray]]] = {
        "safetensors": (folder / "a.safetensors", lambda rows: load_file(folder / "a.safetensors")["a"][rows]),
        "Parquet": (folder / "a.parquet", lambda rows: _of_parquet(folder / "a.parquet")[rows]),
        "Zarr v3, sharded": (folder / "a.zarr", lambda rows: zarr.open_array(folder / "a.zarr", mode="r").oindex[rows]),
    }
    save_file({"a": vectors}, folder / "a.safetensors")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), LENGTH)
    pq.write_table(pa.table({"a": lists}), folder / "a.parquet", compression="none", use_dictionary=False)
    shutil.rmtree(folder / "a.zarr", ignore_errors=True)
    chunks = (64, LENGTH)
    stored: Any = zarr.create_array(
        folder / "a.zarr",
        shape=vectors.shape,
        chunks=chunks,
        shards=(ROWS // 64 * 64 + 64, LENGTH),
        dtype="f2",
        compressors=None,
    )
    stored[:] = vectors
    rows = [np.sort(rng.choice(ROWS, DRAWN, replace=False)) for _ in range(ROUNDS)]
    took = _rows_ms(lambda drawn: read_features(ours).vectors("a")[drawn], rows)
    others = ", ".join(
        f"{name} {_size(path) / vectors.nbytes - 1:.2%} and {_rows_ms(read, rows):.0f} ms"
        for name, (path, read) in peers.items()
    )
    overhead = _size(ours) / vectors.nbytes - 1
    return [
        Figure(
            "features: store over raw float16", overhead * 100, "<= 2", overhead <= 0.02, "%", "with ids and places"
        ),
        Figure("features: files per slide", 1, "<= 4", True),
        Figure(f"features: {DRAWN} random rows of {ROWS:,}", took, "<= 5", took <= 5, "ms", f"opened anew; {others}"),
    ]


def _write_ours(path: Path, vectors: np.ndarray) -> None:
    column = FeatureColumn(
        encoder="a",
        fold=None,
        identity="0" * 64,
        weights="0" * 64,
        dimensions=LENGTH,
        dtype="float16",
        settings={},
        card={},
    )
    record = FeatureRecord(
        slide_id="s", sha256="0" * 64, grid_name="x20", grid={}, mpp=Mpp(0.5), code="", made_of="", columns=[column]
    )
    ids = np.arange(len(vectors))
    write_features(path, record, {"patch_id": ids, "x": ids, "y": ids}, {"a": vectors})


def _of_parquet(path: Path) -> np.ndarray:
    return pq.read_table(path, memory_map=True)["a"].combine_chunks().values.to_numpy().reshape(-1, LENGTH)


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def _rows_ms(read: Callable[[np.ndarray], np.ndarray], rows: list[np.ndarray]) -> float:
    times = []
    for drawn in rows:
        start = time.perf_counter()
        assert read(drawn).shape == (DRAWN, LENGTH)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


# --- one pass for several encoders ------------------------------------------------------------------------------------


class Mean(nn.Module):
    """The mean colour: an encoder that costs nothing, so that decoding is all the time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def _one_pass(work: Path) -> list[Figure]:
    store = work / "features.zarr"
    manifest = convert(big_slide(work, 8192), store, slide_id="big", config=Convert(), mpp=None, threads=2)
    manifest.write(store.with_name("features.json"))
    grid = Grid(size=256, mpp=manifest.mpp)
    corners = np.arange(0, 8192 - 256, 256)
    x, y = (axis.ravel() for axis in np.meshgrid(corners, corners))
    places = {"patch_id": np.arange(len(x)), "x": x, "y": y}
    entry = SlideEntry("big", "p", store.with_name("features.json"), Path("none"))
    encoder = load_group({"a": Encoder(grid="g", name="resnet10t", weights=False)}, grid, models={}, threads=1)[0]
    cheap = ReadyEncoder(encoder.column, Mean(), encoder.card, encoder.runtime, False, None)

    def encode(count: int) -> None:
        vectors = {cheap.name: np.zeros((len(x), 3), np.float16)}
        with read_pixels([cheap] * count, entry, grid, places, batch=64, threads=1) as pixels:
            encode_pixels([cheap] * count, entry, pixels, vectors)

    together, apart = side_by_side(lambda: encode(2), lambda: (encode(1), encode(1)))
    share = ratio(together, apart)
    note = f"{len(x)} patches of 256 px, encoders that cost nothing"
    return [Figure("features: two encoders, one pass over two", share, "<= 0.75", share <= 0.75, "", note)]


# --- the demo cohort --------------------------------------------------------------------------------------------------


def _demo(folder: Path) -> list[Figure]:
    """Encode the demo cohort with EfficientNet-Lite0, as the workflow does it, after the patch tables are made."""
    workshop = Workshop(folder)
    folder.mkdir(exist_ok=True)
    workshop.copy_code()
    command = [sys.executable, "-m", "tests.demo", "demo"]
    subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}", "PATH": os.environ["PATH"]}, check=True
    )
    content = yaml.safe_load((ROOT / "config/demo/config.yaml").read_text()) | {"results": "results"}
    workshop.config.write_text(yaml.safe_dump(content, sort_keys=False))
    slides = [row.split("\t")[0] for row in workshop.rows()[1:]]
    workshop.snakemake("--", *(f"results/patches/x10/{slide}.parquet" for slide in slides), timeout=3600)
    shutil.rmtree(workshop.results / "features", ignore_errors=True)
    shutil.rmtree(workshop.results / "state", ignore_errors=True)
    start = time.perf_counter()
    targets = [f"results/features/lite0/{slide}.arrow" for slide in slides]
    workshop.snakemake("--resources", "gpu=1", "--", *targets, timeout=3600)
    took = time.perf_counter() - start
    logs = "\n".join(path.read_text() for path in (workshop.results / "logs/features/lite0").glob("*.log"))
    passes = [(float(whole), float(waited)) for whole, waited in WAITING.findall(logs)]
    patches = sum(len(read_features(folder / target)) for target in targets)
    busy, waited = (sum(column) for column in zip(*passes, strict=True))
    share = 100 * waited / busy
    note = (
        f"{len(slides)} slides, {patches:,} patches of 128 px, with the start of all jobs; encoding alone {busy:.0f} s"
    )
    return [
        Figure("features: demo cohort, EfficientNet-Lite0", took, "<= 60", took <= 60, "s", note),
        Figure("features: waiting for pixels, demo cohort", share, "<= 3", share <= 3, "%", "with 15 starts"),
    ]


def _waiting(work: Path, demo: Path) -> list[Figure]:
    """Share of the time that the encoder of the demo waits for pixels on a slide of 1,000 patches, with one loader."""
    store = work / "features.json"
    grid = Grid(size=128, mpp=Manifest.read_usable(store).mpp)
    corners = np.arange(0, 8192 - 128, 128)
    x, y = (axis.ravel()[:1000] for axis in np.meshgrid(corners, corners))
    settings = Encoder(grid="g", name=f"folder:{demo}/demo/encoders/efficientnet-lite0", size=128)
    (encoder,) = load_group({"a": settings}, grid, models={}, threads=2)
    vectors = {encoder.name: np.zeros((len(x), encoder.column.dimensions), np.float16)}
    entry = SlideEntry("big", "p", store, Path("none"))
    with read_pixels([encoder], entry, grid, {"x": x, "y": y}, batch=64, threads=2) as pixels:
        took = encode_pixels([encoder], entry, pixels, vectors)
    share = 100 * took.waited / took.whole
    return [
        Figure("features: waiting for pixels, 1,000 patches", share, "<= 3", share <= 3, "%", f"{took.whole:.0f} s")
    ]
