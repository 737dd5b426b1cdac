"""Damage that shows only when patches are decoded: the slide is lost to that stage, and everything else is made."""

from __future__ import annotations

import multiprocessing
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from damaged_cohort import CLASSES, GRID, TASK, build_damaged, fit
from histomake.base.errors import HistomakeError, Reason, SlideError
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined
from histomake.base.tables import lost_slide, write_table
from histomake.cohort.quarantine import attempt
from histomake.config import Encoder, Target
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.items import SlidePrediction
from histomake.evaluate.slide_scores import PredictedSlide, met_damage, pool
from histomake.explain.attribution import attribute, nothing_attributed
from histomake.explain.embedding import TestedSlide, embed, nothing_embedded
from histomake.explain.embedding_page import page
from histomake.explain.patch_pixels import NothingToExplainError
from histomake.features.encoders import load_group
from histomake.features.extract import extract, write_no_features
from histomake.features.predict import load_head
from histomake.features.store import read_features
from histomake.features.training import train_head
from histomake.learn.data.patch_index import SlideEntry
from histomake.learn.inference.predict import load_model, lost_predictions, predict_slide, prediction_schema
from histomake.learn.inference.segment import write_no_segmentation
from safetensors.torch import load_file
from small_cohort import GRID_NAME

from tests import sample_records


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def slides(root) -> list[SlideEntry]:
    """Four slides, the last of which is damaged."""
    return build_damaged(root)


@pytest.fixture(scope="module")
def model(slides, tmp_path_factory):
    """A model that was to be made with a damaged slide, too, and the card of its training."""
    folder = tmp_path_factory.mktemp("model")
    return fit([slides[0], slides[3], slides[1], slides[2]], folder), folder / "model"


def test_a_model_is_made_without_a_damaged_slide_as_if_it_were_not_in_the_cohort(slides, model, tmp_path):
    card, folder = model
    without = fit(slides[:3], tmp_path)
    one, other = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "model"))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert without.left_out == []
    (lost,) = card.left_out
    assert (lost.slide_id, lost.stage, lost.reason) == ("s3", "train", Reason.DAMAGED_TILES)
    assert "patch at x=" in lost.detail
    assert "Delete the store" in lost.remedy
    assert card.made_with == without.made_with


def test_training_stops_if_more_slides_are_damaged_than_may_be_lost(slides, tmp_path):
    with pytest.raises(HistomakeError, match=r"1 of 4 slides are in quarantine(?s:.*)s3 \(damaged_tiles\)"):
        fit([slides[3], *slides[:3]], tmp_path, max_lost=0.2)


def test_a_store_that_is_not_there_stops_training_because_it_is_no_damaged_slide(root, slides, tmp_path):
    folder = tmp_path / "cohort"
    shutil.copytree(root, folder)
    shutil.rmtree(folder / "slides" / "s0.zarr")
    entries = [replace(entry, manifest=folder / "slides" / entry.manifest.name) for entry in slides[:3]]
    with pytest.raises(SlideError, match=r"slide s0 .*cannot read zarr.json"):
        fit(entries, tmp_path)


def test_a_damaged_slide_has_an_empty_prediction_of_the_same_schema_that_says_why(slides, model, tmp_path):
    predictor, lost = load_model(model[1]), []
    whole = predict_slide(predictor, slides[2], batch=16, threads=1)
    found = attempt("predict", lambda: predict_slide(predictor, slides[3], batch=16, threads=2), lost=lost)
    assert isinstance(found, Quarantined)
    assert lost == [found]
    write_table(lost_predictions(predictor, found), tmp_path / "s3.parquet")
    table = pq.read_table(tmp_path / "s3.parquet")
    assert table.num_rows == 0
    assert table.schema.equals(whole.schema)
    assert lost_slide(table) == found
    assert lost_slide(whole) is None


def test_a_damaged_slide_has_an_empty_segmentation_that_says_why(model, tmp_path):
    import json

    lost = sample_records.lost("s3")
    labels, polygons = tmp_path / "labels.zarr", tmp_path / "labels.geojson"
    write_no_segmentation(load_model(model[1]), labels=labels, polygons=polygons, lost=lost)
    assert json.loads((labels / "zarr.json").read_text())["attributes"]["histomake"]["reason"] == lost.reason
    assert json.loads(polygons.read_text())["features"] == []


def scored(model, slide_id: str, table) -> PredictedSlide:
    return PredictedSlide(slide_id, f"patient-{slide_id}", 0, pool(table, CLASSES, "mean"), model[0])


def test_scores_name_slides_that_training_and_prediction_lost(slides, model):
    predictor = load_model(model[1])
    lost = Quarantined.of(SlideError(Reason.DAMAGED_TILES, slide_id="s9", path="s9", detail="d", remedy="r"), "predict")
    predicted = [
        scored(model, "s2", predict_slide(predictor, slides[2], batch=16, threads=1)),
        scored(model, "s9", lost_predictions(predictor, lost)),
    ]
    found = met_damage(predicted, [model[0]], max_share=0.5)
    assert [(entry.slide_id, entry.stage) for entry in found] == [("s3", "train"), ("s9", "predict")]
    with pytest.raises(HistomakeError, match=r"1 of 2 slides .*\n  s9"):
        met_damage(predicted, [model[0]], max_share=0.2)


def test_metrics_of_a_test_set_of_which_nothing_is_left_are_empty(model):
    table = lost_predictions(load_model(model[1]), sample_records.lost("s3"))
    target = Target(classes=CLASSES)
    found = evaluate(
        [SlidePrediction("s3", "p3", 0, table)], kind=TASK.kind, target=target, aggregate="mean", seed=0
    ).record
    assert {level.count for level in found.levels.values()} == {0}
    without = SlidePrediction("s3", "p3", 0, prediction_schema(load_model(model[1])).empty_table())
    with pytest.raises(HistomakeError, match="nothing to evaluate against"):
        evaluate([without], kind=TASK.kind, target=target, aggregate="mean", seed=0)


def test_explanations_leave_a_damaged_slide_out_and_name_it(slides, model):
    predictor = load_model(model[1])
    whole = predict_slide(predictor, slides[2], batch=16, threads=1)
    tested = [TestedSlide(slides[2], "", whole), TestedSlide(slides[3], "", whole)]
    found = embed(predictor=predictor, slides=tested, patches=20, neighbours=5, seed=0).record
    assert found.slides == 1
    assert [(lost.slide_id, lost.stage) for lost in found.left_out] == [("s3", "embed")]
    explained = attribute(
        predictor=predictor,
        tested=[(slides[2], whole), (slides[3], whole)],
        training=[slides[0], slides[3]],
        patches=4,
        points=[],
        regions=[],
        background=4,
        method="gradient",
        seed=0,
    )
    assert {lost.slide_id for lost in explained.record.left_out} == {"s3"}
    assert set(explained.table["slide_id"].to_pylist()) == {"s2"}
    assert set(explained.background["slide_id"].to_pylist()) == {"s0"}


def test_explanations_of_which_nothing_is_left_are_empty_and_say_why(slides, model):
    predictor, lost = load_model(model[1]), sample_records.lost("s3")
    nothing = lost_predictions(predictor, lost)
    with pytest.raises(NothingToExplainError) as caught:
        embed(predictor=predictor, slides=[TestedSlide(slides[3], "", nothing)], patches=9, neighbours=5, seed=0)
    assert caught.value.left_out == [lost]
    empty = nothing_embedded(caught.value.left_out)
    assert empty.record.left_out == [lost]
    assert "<title>Embedding" in page(empty, title="Embedding")
    checks = nothing_attributed(CLASSES, 64, [lost], method="gradient").record
    assert (checks.patches, checks.deletion, checks.left_out) == (0, None, [lost])


@pytest.fixture(scope="module")
def features(slides, root):
    ready = load_group({"a": Encoder(grid=GRID_NAME, name="resnet10t", weights=False)}, GRID, models={}, threads=1)
    files = {entry.slide_id: root / f"{entry.slide_id}.arrow" for entry in slides}
    for entry in slides:

        def work(entry=entry):
            extract(ready, entry, files[entry.slide_id], batch=32, threads=2, code="c", made_of="m")

        lost = attempt("features", work)
        if lost is not None:
            write_no_features(ready, lost, files[entry.slide_id])
    return files


def test_a_damaged_slide_has_features_without_rows_that_say_why(features):
    whole, found = read_features(features["s2"]), read_features(features["s3"])
    assert whole.met_damage is None
    assert found.met_damage.slide_id == "s3"
    assert len(found) == 0
    assert found.table.schema.equals(whole.table.schema)


def test_a_head_is_trained_without_a_slide_whose_features_are_missing_and_names_it(slides, features, tmp_path):
    task = TASK.model_copy(update={"features": "a", "head": "linear"})
    roles = {"train": [slides[0], slides[3], slides[1]], "val": slides[2:3]}
    places = {"output": tmp_path / "model", "state": tmp_path / "state"}
    card = train_head(task, **roles, files=features, column="a", **places, seed=1, threads=1)
    assert [lost.slide_id for lost in card.left_out] == ["s3"]
    assert load_head(tmp_path / "model").card.left_out == card.left_out


def test_a_slide_error_keeps_its_fields_on_the_way_from_a_loader_process():
    error = SlideError(Reason.DAMAGED_TILES, slide_id="s", path="p", detail="d", remedy="r").at("patch at x=1 y=2")
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with receiver, sender:
        sender.send(error)
        again = receiver.recv()
    assert (str(again), again.reason, again.detail) == (str(error), error.reason, "patch at x=1 y=2: d")


def test_the_layout_keeps_the_damage_of_tasks_beside_their_scores(tmp_path):
    assert Layout(tmp_path).damage("t") == tmp_path / "scores" / "t.quarantine.json"
