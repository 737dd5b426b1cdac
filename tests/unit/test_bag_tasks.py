"""Tasks of slides and patients: training on bags, prediction of slides with attention, evaluation, and refusals."""

from __future__ import annotations

import base64
import json
import os
import signal
from dataclasses import replace

import cv2
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import train_bags_killed
from histomake.annotation.model import Annotation
from histomake.bags import objective
from histomake.bags.index import index_bags
from histomake.bags.predict import load_bag_model, predict_bag
from histomake.bags.training import known_of, train_bags
from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.layout import Layout
from histomake.base.records.bag_probe import probe_of
from histomake.base.records.model_card import ModelCard
from histomake.base.records.record import Quarantined
from histomake.base.tables import lost_slide, write_table
from histomake.catalog.build import build_catalog
from histomake.config import Encoder, Grid, Task, parse_config
from histomake.evaluate.bags import AnnotatedSlide, attention_agreement, baselines
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.items import SlidePrediction
from histomake.explain.rankings import attention_rankings
from histomake.explain.summaries import bag_table, bag_text
from histomake.features.encoders import load_group
from histomake.features.extract import extract, write_no_features
from histomake.learn.data.patch_index import annotated_areas, index_patches
from histomake.learn.engine.runtime import PreemptedError
from histomake.patch.grid import SlideGrid
from histomake.patch.table import read_table
from histomake.pictures.findings import SlideFindings
from histomake.pictures.qupath import write_tiles
from histomake.pictures.views import draw_region, draw_views
from histomake.slide.reader import open_slide
from histomake.viewer.content import overlay
from small_cohort import GRID_NAME, MPP, build_cohort, build_quarantined, changed_task

GRID = Grid(size=64, mpp=MPP)
TARGETS = {
    "classification": {"source": "sheet", "column": "grade", "classes": ["low", "high"]},
    "multi_label": {"source": "sheet", "column": "grade", "classes": ["low", "high"]},
    "regression": {"source": "sheet", "column": "share"},
}
SHORT = {"steps": 30, "batch": 4, "validate_every": 15, "workers": 0, "learning_rate": 0.003}


def task(kind="classification", **values):
    told = {"kind": kind, "grid": GRID_NAME, "features": "a", "level": "slide", "target": TARGETS[kind]}
    told |= {"train": SHORT, "pooling": {"embed": 16, "hidden": [16], "dropout": 0.0}, "bag": {"size": 16}}
    return changed_task(told, values)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("cohort")


@pytest.fixture(scope="module")
def slides(root):
    """Eight slides; the share of the class speckled of a slide decides its grade."""
    entries = build_cohort(root, 8)
    shares = [float(annotated_areas(e, pq.read_table(e.table))["speckled"].mean()) for e in entries]
    middle = np.median(shares)
    return [
        replace(entry, labels={"grade": "high" if share > middle else "low", "share": f"{share:.3f}"})
        for entry, share in zip(entries, shares, strict=True)
    ]


@pytest.fixture(scope="module")
def encoders():
    return load_group({"a": Encoder(grid=GRID_NAME, name="resnet10t", weights=False)}, GRID, models={}, threads=1)


@pytest.fixture(scope="module")
def files(slides, encoders, root):
    found = {entry.slide_id: root / f"{entry.slide_id}.arrow" for entry in slides}
    for entry in slides:
        extract(encoders, entry, found[entry.slide_id], batch=32, threads=1, code="c", made_of="m")
    return found


def balanced(slides):
    """Slides in turn of both grades, so that every role has both."""
    low, high = ([s for s in slides if s.labels["grade"] == grade] for grade in ("low", "high"))
    return [slide for pair in zip(low, high, strict=True) for slide in pair]


def trained(settings, slides, files, folder):
    slides = balanced(slides)
    return train_bags(
        settings,
        train=slides[:4],
        val=slides[4:6],
        files=files,
        column="a",
        output=folder / "model",
        state=folder / "state",
        seed=1,
        threads=1,
    )


def predicted(folder, entry, files, *others):
    return predict_bag(load_bag_model(folder / "model"), entry, others, files)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", ["gated", "additive"])
def test_every_kind_is_learned_from_labels_of_slides(kind, name, slides, files, tmp_path):
    card = trained(task(kind, pooling={"name": name}), slides, files, tmp_path)
    assert (card.bag.level, card.bag.pooling["name"], card.head) == ("slide", name, None)
    low, high = (predicted(tmp_path, slide, files) for slide in balanced(slides)[:2])
    last = card.class_names[-1]
    assert high[f"score_{last}"][0].as_py() > low[f"score_{last}"][0].as_py()
    for column in ("score", "linear"):
        assert len(np.unique(high[f"{column}_{last}"].to_numpy())) == 1


def test_several_columns_are_learned_at_once_and_a_slide_may_lack_some(slides, files, tmp_path):
    given = [
        replace(slide, labels=slide.labels | {"other": "" if number == 0 else str(1 - float(slide.labels["share"]))})
        for number, slide in enumerate(balanced(slides))
    ]
    several = {"column": None, "columns": ["share", "other"]}
    settings = task("regression", target=several, pooling={"name": "additive"}, train={"steps": 120})
    card = trained(settings, given, files, tmp_path)
    assert card.class_names == ["share", "other"]
    low, high = (predicted(tmp_path, slide, files) for slide in given[:2])
    assert high["score_share"][0].as_py() > low["score_share"][0].as_py()
    assert high["score_other"][0].as_py() < low["score_other"][0].as_py()
    assert low["target_other"][0].as_py() is None
    assert low["target_share"][0].as_py() == pytest.approx(float(given[0].labels["share"]))


@pytest.mark.parametrize("name", ["mean", "max", "topk", "attention", "dsmil", "clam", "transmil"])
def test_every_other_pooling_is_trained_and_predicts(name, slides, files, tmp_path):
    trained(task(pooling={"name": name}, train={"steps": 4, "validate_every": 2}), slides, files, tmp_path)
    table = predicted(tmp_path, slides[0], files)
    assert table["attention"].to_numpy().sum() == pytest.approx(1, abs=1e-5)
    assert ("contribution_low" in table.column_names) == (name == "topk")


@pytest.mark.parametrize("sampler", ["random", "spread", "cluster"])
def test_every_sampler_draws_bags_and_leaves_a_record_of_them(sampler, slides, files, tmp_path):
    settings = task(bag={"sampler": sampler, "containing": {"speckled": 0.5}}, train={"steps": 6, "audit": True})
    trained(settings, slides, files, tmp_path)
    drawn = pq.read_table(tmp_path / "model" / "training" / "drawn.parquet")
    assert drawn.num_rows == 6 * 4 * 16
    assert set(drawn["slide_id"].to_pylist()) <= {slide.slide_id for slide in balanced(slides)[:4]}


def test_attention_and_contributions_add_up(slides, files, tmp_path):
    trained(task(pooling={"name": "additive"}), slides, files, tmp_path)
    table = predicted(tmp_path, slides[0], files)
    logits = np.array([table[f"contribution_{name}"].to_numpy().sum() for name in ("low", "high")])
    scores = np.array([table[f"score_{name}"][0].as_py() for name in ("low", "high")])
    assert np.exp(logits) / np.exp(logits).sum() == pytest.approx(scores, abs=1e-5)
    assert table["attention"].to_numpy().sum() == pytest.approx(1, abs=1e-5)
    percentile = table["percentile"].to_numpy()
    assert percentile.max() == 1
    assert percentile.min() > 0


def test_the_slides_of_a_patient_are_one_bag(slides, files, tmp_path):
    settings = task(level="patient", pooling={"name": "additive"})
    pairs = [replace(slide, patient_id=slide.labels["grade"] + str(i // 4)) for i, slide in enumerate(balanced(slides))]
    train_bags(
        settings,
        train=pairs[:4],
        val=pairs[4:],
        files=files,
        column="a",
        output=tmp_path / "model",
        state=tmp_path / "state",
        seed=1,
        threads=1,
    )
    first, second = pairs[0], pairs[2]
    assert first.patient_id == second.patient_id
    both = [predicted(tmp_path, first, files, second), predicted(tmp_path, second, files, first)]
    assert both[0]["score_high"][0] == both[1]["score_high"][0]
    assert sum(table["attention"].to_numpy().sum() for table in both) == pytest.approx(1, abs=1e-5)
    assert predicted(tmp_path, first, files)["score_high"][0] != both[0]["score_high"][0]


def test_a_patient_with_slides_of_two_classes_is_refused_and_they_are_listed(slides, files):
    pair = [replace(slide, patient_id="p") for slide in balanced(slides)[:2]]
    patches = index_patches(pair, kind=task().kind, target=task().target)
    with pytest.raises(HistomakeError, match=rf"p \({', '.join(sorted(s.slide_id for s in pair))}\)"):
        index_bags(patches, files, "a", level="patient", min_tissue=0)


def test_a_bag_has_only_patches_with_enough_tissue(slides, files):
    patches = index_patches(slides, kind=task().kind, target=task().target)
    bags = index_bags(patches, files, "a", level="slide", min_tissue=0.9)
    assert len(bags) == len(slides)
    assert bags.patches.tissue.min() >= 0.9
    with pytest.raises(HistomakeError, match=r"lower bag\.min_tissue"):
        index_bags(patches.take(patches.tissue < 0.9), files, "a", level="slide", min_tissue=0.95)


def test_a_slide_without_patches_has_no_rows_and_all_columns(root, slides, files, tmp_path):
    trained(task(pooling={"name": "additive"}, train={"steps": 2}), slides, files, tmp_path)
    lost = build_quarantined(Layout(root), "lost", grid=GRID)
    table = predicted(tmp_path, lost, files)
    assert table.num_rows == 0
    assert table.schema == predicted(tmp_path, slides[0], files).schema


def test_only_slides_that_can_be_evaluated_are_predicted_again_from_some_patches(slides, files, tmp_path):
    trained(task(train={"steps": 2}), slides, files, tmp_path)
    table, unlabelled = (predicted(tmp_path, one, files) for one in (slides[0], replace(slides[0], labels={})))
    assert probe_of(table) is not None
    assert probe_of(unlabelled) is None
    assert unlabelled["score_high"] == table["score_high"]


def test_a_slide_that_was_damaged_when_it_was_encoded_is_left_out(slides, encoders, files, tmp_path):
    damaged = balanced(slides)[0].slide_id
    entry = Quarantined(
        slide_id=damaged,
        stage="features",
        reason="damaged_tiles",
        path="slide.svs",
        detail="tile 3 is damaged",
        remedy="Restore the file",
    )
    without = {**files, damaged: tmp_path / "without.arrow"}
    write_no_features(encoders, entry, without[damaged])
    card = trained(task(level="patient", train={"steps": 2}), slides, without, tmp_path)
    assert card.left_out == [entry]

    first, second = (replace(slide, patient_id="p") for slide in balanced(slides)[::2][:2])
    assert first.slide_id == damaged
    assert lost_slide(predicted(tmp_path, first, without, second)) == entry
    assert predicted(tmp_path, second, without, first).equals(predicted(tmp_path, second, without))


def test_features_of_another_encoder_than_the_model_s_are_refused(slides, files, tmp_path):
    trained(task(train={"steps": 2}), slides, files, tmp_path)
    other = load_group(
        {"a": Encoder(grid=GRID_NAME, name="resnet10t", weights=False, views="mean")}, GRID, models={}, threads=1
    )
    extract(other, slides[0], tmp_path / "other.arrow", batch=32, threads=1, code="c", made_of="m")
    with pytest.raises(HistomakeError, match="other weights or settings"):
        predicted(tmp_path, slides[0], {slides[0].slide_id: tmp_path / "other.arrow"})


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("bag", {"bag": {"min_tissue": {"x": 1}}}, "min_tissue"),
        ("features", {"encoder": "patch_id"}, "no vectors patch_id, only a"),
    ],
)
def test_a_damaged_card_is_refused(section, values, message, slides, files, tmp_path):
    trained(task(train={"steps": 2}), slides, files, tmp_path)
    path = tmp_path / "model" / "model.json"
    card = json.loads(path.read_bytes())
    card[section] |= values
    path.write_text(json.dumps(card))
    with pytest.raises(HistomakeError, match=message):
        predicted(tmp_path, slides[0], files)


def test_slides_without_a_label_are_not_trained_on(slides, files, tmp_path):
    blank = [replace(balanced(slides)[0], labels={}), *balanced(slides)[1:]]
    settings = task(train={"steps": 2, "audit": True})
    roles = {"train": blank[:4], "val": blank[4:6]}
    folder = {"output": tmp_path / "model", "state": tmp_path / "state"}
    train_bags(settings, **roles, files=files, column="a", **folder, seed=1, threads=1)
    drawn = pq.read_table(tmp_path / "model" / "training" / "drawn.parquet")
    assert blank[0].slide_id not in set(drawn["slide_id"].to_pylist())
    assert predicted(tmp_path, blank[0], files)["label"].null_count == predicted(tmp_path, blank[0], files).num_rows


def test_a_model_is_the_same_every_time_and_after_it_is_stopped(slides, files, tmp_path, monkeypatch):
    settings = task(train={"steps": 12, "validate_every": 4, "audit": True})
    trained(settings, slides, files, tmp_path / "whole")
    made = objective.BagBatches.prepare
    stops = {3, 7, 8}

    def interrupted(self, number, *room):
        if number in stops:
            stops.discard(number)
            os.kill(os.getpid(), signal.SIGTERM)
        return made(self, number, *room)

    monkeypatch.setattr(objective.BagBatches, "prepare", interrupted)
    for _ in range(3):
        with pytest.raises(PreemptedError):
            trained(settings, slides, files, tmp_path / "stopped")
    trained(settings, slides, files, tmp_path / "stopped")
    assert not stops
    whole, stopped = (tmp_path / name / "model" for name in ("whole", "stopped"))
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    drawn = [pq.read_table(folder / "training" / "drawn.parquet").combine_chunks() for folder in (whole, stopped)]
    assert drawn[0].equals(drawn[1])


def test_a_model_killed_ten_times_ends_with_the_weights_of_an_uninterrupted_run(slides, files, tmp_path):
    # So many steps that no pause between a checkpoint and a kill is enough to finish.
    settings = task(train={"steps": 400, "validate_every": 100, "checkpoint_minutes": 1e-4})
    chosen = balanced(slides)[:6]
    train_bags_killed.main(settings.dump(), chosen, files, tmp_path / "whole")
    steps = train_bags_killed.kill_repeatedly(settings, chosen, files, tmp_path / "killed", kills=10)
    assert sorted(set(steps)) == steps
    assert not (tmp_path / "killed/model/model.safetensors").exists()
    train_bags_killed.main(settings.dump(), chosen, files, tmp_path / "killed")
    whole, stopped = (tmp_path / name / "model/model.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == stopped.read_bytes()


def test_bags_are_evaluated_by_slide_beside_their_baselines_and_against_annotation(slides, files, tmp_path):
    settings = task(pooling={"name": "additive"})
    card = trained(settings, slides, files, tmp_path)
    tables = [predicted(tmp_path, slide, files) for slide in slides]
    predictions = [
        SlidePrediction(s.slide_id, s.patient_id, 0, t, card.threshold, card.slide_thresholds, s.labels)
        for s, t in zip(slides, tables, strict=True)
    ]
    annotated = [AnnotatedSlide(s.patient_id, t, annotated_areas(s, t)) for s, t in zip(slides, tables, strict=True)]
    found = evaluate(
        predictions,
        kind=card.kind,
        target=settings.target,
        aggregate="mean",
        seed=1,
        bootstraps=50,
        level="slide",
        baselines=baselines(predictions, card.class_names, {0: card.bag.usual}),
        attention=attention_agreement(annotated, card.class_names, exclusive=True, seed=1, bootstraps=50),
    ).record
    assert set(found.levels) == {"slide", "patient"}
    assert found.levels["slide"].count == 8
    assert found.levels["slide"].metrics["all"]["auroc"].value >= 0.8
    assert found.baselines["usual_target"]["slide"].metrics["all"]["auroc"].value == 0.5
    assert found.baselines["mean_features"]["slide"].metrics["all"]["auroc"].value > 0.5
    assert set(found.attention) == {"attention", "contribution to high"}
    agreement = found.attention["contribution to high"]["speckled"]["auroc"]
    assert agreement.value > 0.8
    assert agreement.low <= agreement.value <= agreement.high


def test_the_sampler_draws_bags_of_each_class_equally(slides, files, tmp_path):
    settings = task(train={"batch": 200})
    patches = index_patches(balanced(slides)[:5], kind=settings.kind, target=settings.target)
    bags = index_bags(patches, files, "a", level="slide", min_tissue=0)
    made = objective.BagObjective(
        settings,
        bags=bags,
        held_out=bags,
        known=known_of(settings, bags, seed=1),
        runtime=objective.Runtime(torch.device("cpu"), torch.float32),
        state=tmp_path,
        seed=1,
        threads=1,
    )
    batch = made.source()[0]
    assert 60 < int(batch.target.sum()) < 140
    assert batch.sizes == [16] * 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": {"source": "annotation", "column": None}}, "targets of slides are in the sheet"),
        ({"head": "mlp"}, "has pooling instead"),
        ({"predict": {"aggregate": "max"}}, "pools patches itself"),
        ({"model": {"name": "resnet34"}}, "has no model"),
        ({"train": {"factors": {"high": 2.0}}}, r"train\.factors: a task of slides or patients does not use it"),
        ({"bag": {"clusters": 5}}, "has no clusters"),
        ({"bag": {"containing": {"a": 0.6, "b": 0.6}}}, "more than 1"),
        ({"pooling": {"name": "mean", "heads": 2}}, "mean has one"),
        ({"pooling": {"name": "transmil", "heads": 3}}, "does not divide"),
        ({"pooling": {"patch_loss": 0.5}}, "no loss on patches"),
        ({"pooling": {"normalise": False}}, "is not additive"),
        ({"kind": "multi_label", "pooling": {"name": "clam"}}, "needs kind classification"),
        ({"level": "patient", "predict": {"patient_truth": "any"}}, "must have the same class"),
        ({"level": "patch"}, "bag and pooling need level"),
    ],
)
def test_settings_that_a_task_of_slides_ignores_or_cannot_have_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        task(**changes)


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        ("regression", {"columns": ["a", "b"]}, "exclude each other"),
        ("regression", {"column": None, "columns": ["a", "a"]}, "listed twice"),
        ("regression", {"column": None}, "required with source: sheet"),
        ("classification", {"column": None, "columns": ["a", "b"]}, "does not learn several columns; use column"),
    ],
)
def test_columns_that_cannot_be_learned_at_once_are_refused(kind, target, message):
    with pytest.raises(ValueError, match=message):
        task(kind, target=target)


def test_pixels_cannot_be_predicted_for_slides():
    with pytest.raises(ValueError, match="predicts pixels"):
        Task.model_validate({"kind": "segmentation", "grid": "g", "level": "slide", "target": {"source": "mask"}})


def test_structures_of_bags_must_be_annotation_classes():
    raw = {"grids": {GRID_NAME: {}}, "encoders": {"a": {"grid": GRID_NAME, "name": "resnet10t", "weights": False}}}
    raw["tasks"] = {"t": task(bag={"containing": {"gland": 0.5}}).dump()}
    with pytest.raises(ConfigError, match=r"bag\.containing: 'gland'"):
        parse_config(raw)


@pytest.fixture(scope="module")
def finished(root, slides, files, tmp_path_factory):
    """A results folder with the model of a task and its predictions of two slides."""
    folder = tmp_path_factory.mktemp("finished")
    trained(task(pooling={"name": "additive"}), slides, files, folder)
    layout = Layout(root)
    layout.model("grades", 0).parent.mkdir(parents=True)
    (folder / "model").rename(layout.model("grades", 0))
    predictor = load_bag_model(layout.model("grades", 0))
    for slide in slides[:2]:
        write_table(predict_bag(predictor, slide, [], files), layout.prediction("grades", 0, slide.slide_id))
    return layout


def test_attention_contributions_and_annotation_are_drawn(finished, slides, tmp_path):
    slide = slides[0]
    with open_slide(slide.manifest) as reader:
        findings = SlideFindings(
            reader=reader,
            table=read_table(slide.table)[1],
            model=ModelCard.read(finished.description("grades", 0)),
            predictions=pq.read_table(finished.prediction("grades", 0, slide.slide_id)),
            annotation=Annotation.load(slide.annotation),
        )
        draw_views(findings, mpp=4.0, out={"attention": tmp_path / "attention.png"})
        draw_region(findings, (0, 0, 256, 256), tmp_path / "region.png")
        empty = replace(findings, predictions=findings.predictions.slice(0, 0))
        draw_views(empty, mpp=4.0, out={"attention": tmp_path / "empty.png"})
    sizes = {path.stem: cv2.imread(str(path)).shape for path in tmp_path.glob("*.png")}
    assert set(sizes) == {"attention", "region", "empty"}
    assert sizes["attention"][1] > sizes["attention"][0] * 0.9
    drawn, nothing = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("attention", "empty"))
    changed = (drawn != nothing).any(axis=2) if drawn.shape == nothing.shape else np.ones(1)
    assert changed.mean() > 0.05


def test_the_viewer_shows_attention_and_contributions_of_patches(finished, slides):
    shown = overlay(finished, slides[0].slide_id, "grades", 0)
    assert shown["classes"] == ["attention", "to low", "to high"]
    assert [title for title, _ in shown["overlays"]] == ["patches: attention", "patches: to low", "patches: to high"]
    values = np.frombuffer(base64.b64decode(shown["scores"]), "<f4").reshape(3, -1)
    assert values.min() >= 0
    assert values.max() <= 1


def test_the_report_names_the_patches_of_highest_attention_and_the_result_of_the_bag(finished, slides):
    table = pq.read_table(finished.prediction("grades", 0, slides[0].slide_id))
    named = table.append_column("slide_id", pa.array([slides[0].slide_id] * table.num_rows))
    rankings = {ranking.reason: ranking.rows for ranking in attention_rankings(named, ["low", "high"])}
    assert rankings["highest attention"][0] == table["attention"].to_numpy().argmax()
    assert rankings["lowest contribution to high"][0] == table["contribution_high"].to_numpy().argmin()
    header, rows = bag_table(table, ["low", "high"])
    assert header[0] == "output"
    assert [row[0] for row in rows] == ["low", "high"]
    assert {row[3] for row in rows} == {"yes", ""}
    assert bag_text(table.slice(0, 1).to_pylist()[0], ["low", "high"]).startswith("attention: percentile")


def test_of_two_exclusive_classes_the_contributions_to_their_difference_are_ranked():
    table = pa.table(
        {
            "slide_id": ["a", "a"],
            "attention": pa.array([0.4, 0.6], pa.float32()),
            "contribution_low": pa.array([1.0, 3.0], pa.float32()),
            "contribution_high": pa.array([2.0, 2.5], pa.float32()),
        }
    )
    found = {
        ranking.reason: ranking.rows.tolist() for ranking in attention_rankings(table, ["low", "high"], exclusive=True)
    }
    assert "highest contribution to low" not in found
    assert found["highest contribution to high"] == [0, 1]


def test_patches_of_all_slides_of_a_patient_are_compared_as_one_bag():
    table = pa.table(
        {
            "slide_id": ["a", "b", "b", "c"],
            "patient_id": ["p", "p", "p", "q"],
            "attention": pa.array([0.5, 0.3, 0.2, 1.0], pa.float32()),
        }
    )
    highest, _ = attention_rankings(table, ["low", "high"], bag="patient_id")
    assert highest.rows.tolist() == [0, 3, 1, 2]


def test_qupath_tiles_have_attention_and_contributions(finished, slides, tmp_path):
    table = pq.read_table(finished.prediction("grades", 0, slides[0].slide_id))
    grid = SlideGrid.of_table(read_table(slides[0].table)[1])
    write_tiles(tmp_path / "t.geojson", table, slide_id="s0", classes=["low", "high"], slide_grid=grid)
    first = json.loads((tmp_path / "t.geojson").read_text())["features"][0]["properties"]["measurements"]
    assert {"attention", "percentile", "contribution: low", "contribution: high"} <= set(first)


def test_the_catalog_has_a_row_per_bag(finished, slides, tmp_path):
    build_catalog(
        tmp_path / "catalog.duckdb",
        manifests=[slide.manifest for slide in slides[:2]],
        tissue=[],
        quality=[],
        annotations=[],
        tables={},
        splits={},
        predictions={"grades": [finished.prediction("grades", 0, slide.slide_id) for slide in slides[:2]]},
        sheet=[(slide.slide_id, slide.patient_id, None, slide.labels) for slide in slides[:2]],
    )
    with duckdb.connect(tmp_path / "catalog.duckdb", read_only=True) as base:
        rows = base.execute("SELECT slide_id, patient_id, patches, attention, score_high FROM bags_grades").fetchall()
    assert [row[:2] for row in rows] == [(slide.slide_id, slide.patient_id) for slide in slides[:2]]
    assert [row[3] for row in rows] == pytest.approx([1, 1], abs=1e-4)
