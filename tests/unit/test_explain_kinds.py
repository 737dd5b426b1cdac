"""Every kind of task from a trained model to its pictures: embedded, explained, drawn, in the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from histomake.annotation.model import Annotation
from histomake.base.files import store_of
from histomake.base.kinds import Kind
from histomake.base.layout import Layout
from histomake.base.records.model_card import ModelCard
from histomake.config import Task
from histomake.config.kinds import ACCEPTED
from histomake.explain import attribution_page, embedding, embedding_page
from histomake.explain.attribution import attribute
from histomake.learn.inference.predict import load_model, predict_slide
from histomake.learn.inference.segment import segment_slide
from histomake.learn.train import train
from histomake.patch.table import read_table
from histomake.pictures import views
from histomake.pictures.findings import SlideFindings
from histomake.pictures.kinds import PICTURED
from histomake.report import task_section
from histomake.report.examples import examples
from histomake.slide.reader import open_slide
from histomake.target.kinds import LEARNED
from histomake.target.outputs import outputs_of
from small_cohort import CLASSES, GRID_NAME, build_cohort


def smallest_task(kind: Kind) -> Task:
    """A task of a kind that is trained in seconds, from the example of the documentation."""
    example = {"model": {"name": "test_resnet"}, **ACCEPTED[kind].example}
    example["target"] = {**example["target"], "classes": CLASSES[: len(example["target"]["classes"])]}
    train = {"steps": 2, "batch": 4, "validate_every": 2, "workers": 0}
    return Task.model_validate({"kind": kind, "grid": GRID_NAME, "train": train, **example})


@pytest.fixture(scope="module", params=[kind for kind in Kind if ACCEPTED[kind].patches])
def finished(request, tmp_path_factory):
    """A model of one kind after two steps, and its predictions of a slide it has not seen."""
    root = tmp_path_factory.mktemp(request.param)
    layout, entries = Layout(root), build_cohort(root, 3)
    task = smallest_task(request.param)
    train(
        task,
        train=entries[:1],
        val=entries[1:2],
        class_names=outputs_of(task.kind, task.target),
        output=layout.model("t", 0),
        state=root / "state",
        seed=0,
        threads=1,
    )
    predictor, path = load_model(layout.model("t", 0)), layout.prediction("t", 0, entries[2].slide_id)
    path.parent.mkdir(parents=True)
    if LEARNED[task.kind].per_pixel:
        places = {"labels": path.with_suffix(".labels.zarr"), "polygons": path.with_suffix(".geojson")}
        table = segment_slide(predictor, entries[2], batch=16, threads=1, overlap=0.25, **places)
    else:
        table = predict_slide(predictor, entries[2], batch=16, threads=1)
    pq.write_table(table, path)
    return layout, task, predictor, entries, pq.read_table(path)


def test_its_patches_are_embedded_and_shown(finished):
    _, task, predictor, entries, table = finished
    slide = embedding.TestedSlide(entries[2], "north", table)
    found = embedding.embed(predictor=predictor, slides=[slide], patches=6, neighbours=3, seed=0)
    payload = embedding_page._payload(found)
    assert found.table.num_rows == 6
    assert {f"score_{name}" for name in outputs_of(task.kind, task.target)} <= set(payload["numbers"])
    assert embedding_page.mosaic(found, title="t").shape[2] == 3


def test_its_patches_are_explained_drawn_and_shown_in_the_report(finished, tmp_path):
    _, task, predictor, entries, table = finished
    found = attribute(
        predictor=predictor,
        tested=[(entries[2], table)],
        training=entries[:1],
        patches=2,
        points=[],
        regions=[(entries[2].slide_id, 0, 0, 512, 512)],
        background=2,
        method="gradient",
        seed=0,
    )
    assert found.maps.shape[:2] == (found.table.num_rows, len(outputs_of(task.kind, task.target)))
    assert np.isfinite(found.maps).all()
    assert {"in a region"} < set(found.table["reason"].to_pylist())
    folder = tmp_path / "attributions" / "t" / "fold0"
    folder.mkdir(parents=True)
    found.record.write(folder / "checks.json")
    pq.write_table(found.table, folder / "patches.parquet")
    attribution_page.panels(found, patch_um=64).savefig(folder / "panels.png", dpi=30)
    assert (folder / "panels.png").stat().st_size > 1000
    text = task_section._attribution("t", 0, Layout(tmp_path))
    assert f"Mean of {found.table.num_rows} patches" in text
    assert text.count("<img") == 2


def test_its_slide_is_drawn_and_so_is_a_part_of_it(finished, tmp_path: Path):
    layout, _, _, entries, table = finished
    slide = entries[2].slide_id
    with open_slide(entries[2].manifest) as reader:
        found = SlideFindings(
            reader=reader,
            table=read_table(entries[2].table)[1],
            model=ModelCard.read(layout.model("t", 0) / "model.json"),
            predictions=table,
            annotation=Annotation.load(layout.annotation(slide)),
            label_store=store_of(layout.segmentation("t", 0, slide)),
        )
        out = {view: tmp_path / f"{view}.jpg" for view in PICTURED[found.kind].views}
        views.draw_views(found, mpp=2.0, out=out)
        views.draw_region(found, (100, 100, 200, 150), tmp_path / "region.jpg")
    assert {path.name for path in tmp_path.glob("*.jpg")} >= {"prediction.jpg", "truth.jpg", "region.jpg"}


def test_its_examples_are_in_the_report(finished):
    layout, task, _, entries, _ = finished
    role = {"fold": [0], "role": ["test"], "slide_id": [entries[2].slide_id], "patient_id": ["P"]}
    layout.split("t").parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(role), layout.split("t"))
    text = "".join(examples("t", task, layout, [0]))
    assert text.count("<img") >= 4
    assert entries[2].slide_id in text
