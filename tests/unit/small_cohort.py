"""A cohort of tiny slide stores for tests of learning: two textures, annotated regions, patch tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from histomake.annotation.model import Annotation
from histomake.annotation.write import write_annotation
from histomake.base.files import store_of
from histomake.base.layout import Layout
from histomake.base.records.manifest import Manifest
from histomake.config import Convert, Grid, Task
from histomake.learn.data.patch_index import SlideEntry
from histomake.patch.tabulate import empty_table, tabulate, write_patch_table
from histomake.slide.convert import convert

from tests import sample_records

CLASSES = ["smooth", "speckled"]
GRID_NAME = "tiny"
SIDE = 512
MPP = 1.0
STORE = Convert(codec="zstd", shard_px=512)
DOWNSAMPLE = 16


def paint(seed: int) -> tuple[np.ndarray, list[tuple[str, shapely.Geometry]]]:
    """A slide uint8 (SIDE, SIDE, 3): pink, with a darker speckled part right of a seeded border; and its regions."""
    rng = np.random.default_rng(seed)
    border = int(rng.integers(SIDE // 4, 3 * SIDE // 4)) // 64 * 64
    image = rng.normal((200, 150, 190), 6, (SIDE, SIDE, 3))
    speckles = rng.random((SIDE // 4, SIDE // 4)).repeat(4, 0).repeat(4, 1) < 0.3
    speckles[:, :border] = False
    image[speckles] = rng.normal((110, 70, 150), 10, (int(speckles.sum()), 3))
    regions = [("smooth", shapely.box(0, 0, border, SIDE)), ("speckled", shapely.box(border, 0, SIDE, SIDE))]
    return np.clip(image, 0, 255).astype(np.uint8), regions


def build_slide(
    layout: Layout, slide_id: str, *, seed: int, grid: Grid, patient_id: str | None = None, store_as: Convert = STORE
) -> SlideEntry:
    """Convert, annotate and tabulate one painted slide under ``layout``; the left eighth is glass."""
    image, regions = paint(seed)
    source = layout.results / "source" / f"{slide_id}.npy"
    source.parent.mkdir(parents=True, exist_ok=True)
    np.save(source, image)
    store = layout.results / "slides" / f"{slide_id}.zarr"
    manifest = convert(source, store, slide_id=slide_id, config=store_as, mpp=MPP)
    manifest.write(layout.manifest(slide_id))
    record = sample_records.annotation(slide_id, width=SIDE, height=SIDE, class_names=tuple(CLASSES))
    annotation = Annotation(tuple(CLASSES), regions, record=record)
    path = layout.annotation(slide_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = store_of(layout.label_image(slide_id))
    write_annotation(annotation, record=path, geojson=layout.outlines(slide_id), labels=labels)
    tabulate_annotated(manifest, annotation, grid, layout.table(GRID_NAME, slide_id))
    return SlideEntry.at(layout, GRID_NAME, slide_id, patient_id or f"patient-{slide_id}", {})


def tabulate_annotated(manifest: Manifest, annotation: Annotation, grid: Grid, path: Path) -> None:
    """Write the patch table of a painted slide with an annotation; the left eighth is glass."""
    mask = np.ones((SIDE // DOWNSAMPLE,) * 2, bool)
    mask[:, : mask.shape[1] // 8] = False
    tissue = sample_records.tissue_mask(mask, DOWNSAMPLE)
    artefacts = sample_records.artefact_map(np.zeros_like(mask, np.uint8))
    table = tabulate(manifest, tissue, artefacts, annotation, grid, CLASSES, grid_name=GRID_NAME, max_share=0.5)
    write_patch_table(table, path)


def build_reading(layout: Layout, slide_id: str, reader: str, *, grid: Grid, **boxes: tuple[int, int]) -> None:
    """What a reader annotated on a painted slide: of each class the columns from one x to another."""
    regions = [(name, shapely.box(left, 0, right, SIDE)) for name, (left, right) in boxes.items()]
    record = sample_records.annotation(slide_id, width=SIDE, height=SIDE, class_names=tuple(CLASSES))
    annotation, files = Annotation(tuple(CLASSES), regions, record=record), layout.reading(slide_id, reader)
    files.record.parent.mkdir(parents=True, exist_ok=True)
    labels = store_of(files.labels)
    write_annotation(annotation, record=files.record, geojson=files.outlines, labels=labels, keep_labels=True)
    tabulate_annotated(Manifest.read_usable(layout.manifest(slide_id)), annotation, grid, files.table(GRID_NAME))


def build_quarantined(layout: Layout, slide_id: str, *, grid: Grid) -> SlideEntry:
    """A slide that could not be read: a quarantine entry in place of a manifest, and an empty table."""
    outcome = sample_records.lost(slide_id)
    outcome.write(layout.manifest(slide_id))
    write_patch_table(empty_table(outcome, CLASSES), layout.table(GRID_NAME, slide_id))
    return SlideEntry.at(layout, GRID_NAME, slide_id, f"patient-{slide_id}", {})


def build_cohort(root: Path, slides: int, *, size: int = 64, store_as: Convert = STORE) -> list[SlideEntry]:
    """``slides`` painted slides of as many patients, with a grid of ``size`` px patches at MPP."""
    grid = Grid(size=size, mpp=MPP)
    return [build_slide(Layout(root), f"s{i}", seed=i, grid=grid, store_as=store_as) for i in range(slides)]


def changed_task(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> Task:
    """A task with settings of which some are changed; of sections, only the keys that are given."""
    told = dict(settings)
    for key, value in changes.items():
        told[key] = {**told[key], **value} if isinstance(value, dict) and key in told else value
    return Task.model_validate(told)
