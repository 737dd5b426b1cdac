"""A results folder with one marked patch, and measurements of it in a browser, for tests and benchmarks."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
import zarr
from histomake.annotation.model import Annotation
from histomake.annotation.write import write_annotation
from histomake.base.files import store_of
from histomake.base.layout import Layout
from histomake.base.records.annotation import LabelImageRecord
from histomake.config import Convert, Grid
from histomake.patch.table import METADATA_KEY
from histomake.slide.convert import convert
from PIL import Image

from tests import sample_records
from tests.browser import Browser

SLIDE = "P-01.a_b"
CLASSES = ("nuclei", "skin")
SIZE = 3000
MPP = 0.5
SPAN = 256
MARKED = 37
"""patch_id of the patch whose pixels are black on the white slide."""


def patch_positions() -> list[tuple[int, int]]:
    columns = range(0, SIZE - SPAN + 1, SPAN)
    return [(x, y) for y in columns for x in columns]


def make_results(folder: Path, codec: str = "jpeg") -> Layout:
    """Create a results folder with one white slide with one black patch, its table and its predictions."""
    layout, positions = Layout(folder), patch_positions()
    pixels = np.full((SIZE, SIZE, 3), 255, np.uint8)
    x, y = positions[MARKED]
    pixels[y : y + SPAN, x : x + SPAN] = 0
    layout.manifest(SLIDE).parent.mkdir(parents=True)
    source = folder / "slide.npy"
    np.save(source, pixels)
    settings = Convert(codec=codec, quality=95)
    manifest = convert(source, folder / "slides" / f"{SLIDE}.zarr", slide_id=SLIDE, config=settings, mpp=MPP)
    manifest.write(layout.manifest(SLIDE))
    sample_records.lost("lost").write(layout.manifest("lost"))
    write_tables(layout, manifest.sha256, positions)
    write_masks(layout, positions)
    return layout


def write_masks(layout: Layout, positions: list[tuple[int, int]]) -> None:
    """Add the marked patch as nuclei: a mask with 4 level-0 pixels per label, and a segmentation with 2."""
    x, y = positions[MARKED]
    image = LabelImageRecord(store=f"{SLIDE}.labels.zarr", downsample=4, width=SIZE // 4, height=SIZE // 4)
    record = sample_records.annotation(SLIDE, class_names=CLASSES, annotation_format="mask.npy", label_image=image)
    record.write(layout.annotation(SLIDE))
    layout.annotation(SLIDE).with_suffix(".geojson").write_text('{"type":"FeatureCollection","features":[]}')
    annotated = np.zeros((SIZE // 4, SIZE // 4), np.uint8)
    annotated[y // 4 : (y + SPAN) // 4, x // 4 : (x + SPAN) // 4] = 1
    zarr.create_array(store_of(layout.label_image(SLIDE)), data=annotated)
    path = layout.prediction("pixel_map", 0, SLIDE)
    path.parent.mkdir(parents=True)
    shutil.copy(layout.prediction("kind", 0, SLIDE), path)
    card = sample_records.model_card("segmentation", class_names=["background", "skin", "nuclei"])
    card.write(layout.model("pixel_map", 0) / "model.json")
    found = np.zeros((SIZE // 2, SIZE // 2), np.uint8)
    found[y // 2 : (y + SPAN) // 2, x // 2 : (x + SPAN) // 2] = 2
    group = zarr.open_group(path.with_suffix(".labels.zarr"), mode="w")
    levels = [found, found[::2, ::2]]
    group.attrs["ome"] = {"multiscales": [{"datasets": [{"path": str(i)} for i in range(len(levels))]}]}
    for i, values in enumerate(levels):
        group.create_array(str(i), data=values)


def write_tables(layout: Layout, sha256: str, positions: list[tuple[int, int]]) -> None:
    ids = np.arange(len(positions), dtype=np.uint32)
    place = {"patch_id": ids, "x": np.array(positions, np.int32)[:, 0], "y": np.array(positions, np.int32)[:, 1]}
    record = sample_records.patch_table(
        SLIDE, sha256=sha256, width=SIZE, height=SIZE, mpp=MPP, grid_name="x10", grid=Grid(size=128, mpp=1.0)
    )
    table = pa.table({**place, "tissue": np.ones(len(ids), np.float32)})
    table = table.replace_schema_metadata({METADATA_KEY: record.encode("table")})
    layout.table("x10", SLIDE).parent.mkdir(parents=True)
    pq.write_table(table, layout.table("x10", SLIDE))
    score = (ids == MARKED).astype(np.float32)
    said = pa.array(np.where(score > 0, "nuclei", "skin"))
    label = pa.array(["nuclei", None, *["skin"] * (len(ids) - 2)])
    predictions = pa.table({**place, "score_skin": 1 - score, "score_nuclei": score, "predicted": said, "label": label})
    path = layout.prediction("kind", 0, SLIDE)
    path.parent.mkdir(parents=True)
    pq.write_table(predictions, path)
    sample_records.sidecar(outputs={str(path): "f" * 64}).write(f"{path}.meta.json")
    sample_records.model_card().write(layout.model("kind", 0) / "model.json")


READY = (
    "window.histomake?.overlay && histomake.viewer?.world.getItemCount() > 0 "
    "&& histomake.viewer.world.getItemAt(0).getFullyLoaded()"
)


def shown(browser: Browser, **opacity: int) -> np.ndarray:
    """Return the stage as pixels, with the overlays at the given opacities."""
    for name in ("tissue", "annotation", "prediction", "silico", "cascaded"):
        browser.value(f"document.getElementById('{name}').value = {opacity.get(name, 0)}")
    browser.value("showMasks(); drawOverlay()")
    laid = "[...histomake.masks.values(), ...histomake.virtual.values(), histomake.outlines]"
    browser.wait(f"{laid}.every((item) => !item?.getOpacity() || item.getFullyLoaded())")
    browser.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    time.sleep(0.2)
    return np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB")).astype(int)


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.sum(1) > 3), np.flatnonzero(mask.sum(0) > 3)
    return [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]


STAGE = (slice(160, 830), slice(255, 1075))
"""Part of the window that shows only the slide: no panels, no scale bar, no navigator."""


def overlay_offset(browser: Browser, overlay: str = "prediction") -> int:
    """Return the largest distance in screen pixels between the borders of the black patch and of its overlay."""
    return int(np.abs(border_offsets(browser, overlay)).max())


def border_offsets(browser: Browser, overlay: str) -> np.ndarray:
    """Return by how many screen pixels the overlay extends beyond the black patch: above, below, left and right."""
    bare, laid = shown(browser)[STAGE], shown(browser, **{overlay: 100})[STAGE]
    black = box_of((bare < 128).all(axis=2))
    orange = box_of(np.abs(laid - [230, 159, 0]).max(axis=2) < 12)
    return np.subtract(black, orange) * [1, -1, 1, -1]


def outline_marked(layout: Layout) -> None:
    """Replace the annotated mask by an outline of the marked patch, and add one speck and one hole elsewhere."""
    x, y = patch_positions()[MARKED]
    ring = shapely.box(2000, 2000, 2400, 2400).difference(shapely.box(2100, 2100, 2300, 2300))
    regions = [("nuclei", shapely.box(x, y, x + SPAN, y + SPAN)), ("skin", ring), ("skin", shapely.box(10, 10, 11, 11))]
    record = sample_records.annotation(SLIDE, class_names=CLASSES, regions={"nuclei": 1, "skin": 2})
    path = layout.annotation(SLIDE)
    annotation = Annotation(CLASSES, regions, None, record)
    labels = store_of(layout.label_image(SLIDE))
    write_annotation(annotation, record=path, geojson=layout.outlines(SLIDE), labels=labels)
