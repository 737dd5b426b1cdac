"""Benchmarks of interactive results: embedding, attribution, and the viewer in a real browser."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import pyarrow as pa
import tifffile
import timm
import torch
from histomake.base.layout import Layout
from histomake.base.records.separation import SeparationRecord
from histomake.config import Convert
from histomake.explain import embedding, embedding_page, shapley
from histomake.slide.convert import convert
from histomake.viewer.server import OPENSEADRAGON

from tests.bench.figures import Figure
from tests.bench.slides import REGION, big_slide
from tests.browser import CHROMIUM, Browser
from tests.marked_slide import SLIDE, make_results, overlay_offset
from tests.viewed import served, viewing

PATCHES, FEATURES = 30_000, 512
PANEL, PANEL_PX, BACKGROUND = 16, 128, 32
SIDE = 24_576
REPEATS = 5
DEMO = Path(__file__).resolve().parents[2] / "results" / "demo"


def run(work: Path) -> list[Figure]:
    """Return all figures of the group."""
    return [*embedding_figures(), shap_figure(), deletion_figure(), *viewer_figures(work)]


def embedding_figures() -> list[Figure]:
    """Measure layout, measures and page of many patches whose thumbnails are real tissue."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 2, (12, FEATURES))
    features = (centres[rng.integers(12, size=PATCHES)] + rng.normal(0, 1, (PATCHES, FEATURES))).astype(np.float32)
    groups = {name: [f"{name}{i % 6}" for i in range(PATCHES)] for name in ("slide_id", "patient_id", "site")}
    started = time.perf_counter()
    plane, space = embedding.lay_out(features, neighbours=15, seed=0)
    record = embedding.describe(features, groups, slides=6, seed=0)
    text = embedding_page.page(_embedding(groups, plane, space, record, rng), title="benchmark")
    seconds, megabytes = time.perf_counter() - started, len(text) / 1e6
    site = record.batch_effect["site"].balanced_accuracy
    note = f"{PATCHES:,} patches, {FEATURES} features; site predicted with balanced accuracy {site}"
    return [
        Figure("embedding: UMAP 2-D and 3-D, measures, page", seconds, "<= 90", seconds <= 90, "s", note),
        Figure("embedding: size of the page", megabytes, "<= 20", megabytes <= 20, "MB"),
    ]


def _embedding(
    groups: dict[str, list[str]],
    plane: np.ndarray,
    space: np.ndarray,
    record: SeparationRecord,
    rng: np.random.Generator,
) -> embedding.Embedding:
    score = rng.random(PATCHES).astype(np.float32)
    names = np.where(score > 0.5, "b", "a").tolist()
    columns = {**groups, "predicted": names, "label": names, "score_a": 1 - score, "score_b": score}
    columns |= {name: np.arange(PATCHES, dtype=np.int32) for name in ("patch_id", "x", "y")}
    columns |= {"span": np.full(PATCHES, 256, np.float32), "tissue": np.ones(PATCHES, np.float32)}
    columns |= {"umap2_x": plane[:, 0], "umap2_y": plane[:, 1]}
    columns |= {f"umap3_{axis}": space[:, i] for i, axis in enumerate("xyz")}
    px = embedding.THUMB_PX
    tissue = cv2.resize(tifffile.imread(REGION), None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)
    corners = rng.integers(0, [tissue.shape[0] - px, tissue.shape[1] - px], (PATCHES, 2))
    thumbs = np.stack([tissue[y : y + px, x : x + px] for y, x in corners])
    return embedding.Embedding(pa.table(columns), thumbs, record)


def shap_figure() -> Figure:
    """Measure the SHAP values of one panel."""
    torch.manual_seed(0)
    margin = shapley.Margin(timm.create_model("resnet18", num_classes=2)).eval()
    images, base = torch.rand(PANEL, 3, PANEL_PX, PANEL_PX), torch.rand(BACKGROUND, 3, PANEL_PX, PANEL_PX)
    started = time.perf_counter()
    shapley.explain(margin, images, base, seed=0)
    seconds = time.perf_counter() - started
    note = f"{PANEL} patches of {PANEL_PX} px, {shapley.SAMPLES} samples"
    return Figure("SHAP panel, ResNet-18", seconds, "<= 60", seconds <= 60, "s", note)


def deletion_figure() -> Figure:
    """Return the share of the demo model's patches for which SHAP beats random maps at deletion; needs `make demo`."""
    found = sorted(DEMO.glob("attributions/*/fold*/checks.json"))
    if not found:
        return Figure("deletion: SHAP beats random", 0.0, ">= 0.8", False, note="run `make demo` first")
    share = json.loads(found[0].read_text())["deletion_better"]
    return Figure("deletion: SHAP beats random", share, ">= 0.8", share >= 0.8, "of patches")


def viewer_figures(work: Path) -> list[Figure]:
    """Measure time to the first tiles of a large slide, number of tiles fetched, and offset of an overlay."""
    if not (CHROMIUM and OPENSEADRAGON.is_file()):
        return [Figure("viewer", 0.0, "runs", False, note="needs Chromium (apt) and OpenSeadragon (make viewer)")]
    results = Layout(work / "viewer-large")
    if not results.manifest("large").is_file():
        source = big_slide(work, SIDE)
        store = results.results / "slides" / "large.zarr"
        convert(source, store, slide_id="large", config=Convert(), mpp=None).write(results.manifest("large"))
    marked = Layout(work / "viewer-marked")
    if not marked.manifest(SLIDE).is_file():
        make_results(marked.results)
    seconds, ratio = _first_tiles(results)
    offset = _offset(marked)
    return [
        Figure("viewer: first tiles of a 24k slide", seconds, "<= 1", seconds <= 1, "s", f"median of {REPEATS}"),
        Figure("viewer: tiles fetched / tiles shown", ratio, "<= 1", ratio <= 1, "", "navigator included"),
        Figure("viewer: overlay offset", offset, "<= 1", offset <= 1, "screen px"),
    ]


FIRST = "window.histomake?.viewer?.world.getItemAt(0)?.lastDrawn.length > 0"
LOADED = "histomake.viewer.world.getItemAt(0).getFullyLoaded()"
SHOWN = "[histomake.viewer, histomake.viewer.navigator].reduce((n, v) => n + v.world.getItemAt(0).lastDrawn.length, 0)"


def _first_tiles(results: Layout) -> tuple[float, float]:
    """Return the seconds from requesting the page to drawing the first tile, and tiles fetched per tile shown."""
    times, ratios = [], []
    with served(results) as server, Browser() as browser:
        for _ in range(REPEATS):
            browser.open("about:blank")
            started = time.perf_counter()
            browser.open(server.guard.address(server.server_port, "/slide/large"))
            browser.wait(FIRST)
            times.append(time.perf_counter() - started)
            browser.wait(LOADED)
            time.sleep(0.5)
            ratios.append(browser.value("histomake.store.fetched") / browser.value(SHOWN))
    return median(times), median(ratios)


def _offset(marked: Layout) -> int:
    with viewing(marked, f"/slide/{SLIDE}") as browser:
        return overlay_offset(browser)
