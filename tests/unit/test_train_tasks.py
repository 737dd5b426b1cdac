"""Training options: kinds of tasks and targets, sampling, early stopping, and outputs."""

from __future__ import annotations

import csv
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.base.records.model_card import ModelCard
from histomake.base.rng import counter_rng
from histomake.config import ConfigError, Grid, Model, Target, Task, Train
from histomake.config.kinds import ACCEPTED
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.items import SlidePrediction
from histomake.learn.data.batches import TrainingBatches
from histomake.learn.data.drawing import draw_weights
from histomake.learn.data.patch_index import output_sizes, patches_containing
from histomake.learn.data.reading import MaskReader, PatchReader
from histomake.learn.engine.loop import Trainer
from histomake.learn.engine.runtime import PreemptedError, advise_on_memory, choose_runtime
from histomake.learn.inference.predict import SHORT_OF_MEMORY as PREDICTING
from histomake.learn.inference.predict import load_model, predict_slide
from histomake.learn.inference.validation import choose_threshold, class_thresholds, regression_scores
from histomake.learn.objectives.losses import build_loss, cross_entropy, dice, focal, generalised_dice
from histomake.learn.objectives.patches import SHORT_OF_MEMORY as TRAINING
from histomake.learn.objectives.patches import PatchObjective
from histomake.learn.train import check_classes, known_patches, settings_of, train
from histomake.patch.positions import TissueLattice, move
from histomake.patch.sampler import Sampler
from histomake.patch.table import read_table
from histomake.target.kinds import patch_targets, slide_target
from histomake.target.pooling import pool_scores
from histomake.target.targets import UNLABELLED, balance_group
from pydantic import ValidationError
from small_cohort import CLASSES, GRID_NAME, SIDE, build_cohort, build_slide

NUMBERS = {"s0": "0.2", "s1": "0.8", "s2": "0.3", "s3": "0.7"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory):
    return build_cohort(tmp_path_factory.mktemp("tasks"), 4)


def make_task(kind: str = "classification", **sections) -> Task:
    quick = {"steps": 6, "batch": 8, "validate_every": 3, "workers": 0, "learning_rate": 1e-3}
    sections = {"target": {"classes": CLASSES}, "model": {"name": "test_resnet"}} | sections
    sections["train"] = quick | sections.get("train", {})
    return Task.model_validate({"kind": kind, "grid": GRID_NAME, **sections})


def fit(task: Task, entries, output: Path) -> dict:
    places = {"output": output, "state": output.with_name(f"{output.name}.state")}
    return train(task, train=entries[:2], val=entries[2:3], class_names=CLASSES, **places, seed=3, threads=1)


def objective_of(task: Task, patches, held_out, state: Path, *, seed: int = 0) -> PatchObjective:
    runtime = choose_runtime("fp32", threads=1)
    return PatchObjective(task, patches=patches, held_out=held_out, runtime=runtime, state=state, seed=seed, threads=1)


def trainer_of(task: Task, patches, held_out, state: Path, *, seed: int = 0) -> Trainer:
    objective = objective_of(task, patches, held_out, state, seed=seed)
    return Trainer(objective, settings_of(task, seed=seed), runtime=objective.runtime, state=state)


def labelled(entries, **labels: dict[str, str]):
    """The entries with sheet labels: column → value by slide."""
    return [replace(e, labels={name: values[e.slide_id] for name, values in labels.items()}) for e in entries]


def judge(task: Task, described: ModelCard, tables) -> dict:
    """The evaluation record of prediction tables by slide."""
    predictions = [
        SlidePrediction(entry.slide_id, entry.patient_id, 0, table, labels=entry.labels) for entry, table in tables
    ]
    found = evaluate(predictions, kind=task.kind, target=task.target, aggregate="mean", seed=0, bootstraps=5)
    return found.record.dump()["levels"]


def test_regression_of_area_shares_is_learned_and_measured(tmp_path: Path) -> None:
    # Strides of half a patch give patches that the border crosses.
    entries = [build_slide(Layout(tmp_path), f"s{i}", seed=i, grid=Grid(size=64, mpp=1, stride=24)) for i in range(4)]
    task = make_task("regression", target={"classes": ["speckled"]}, train={"steps": 60, "validate_every": 30})
    described = fit(task, entries, tmp_path / "model")
    table = predict_slide(load_model(tmp_path / "model"), entries[3], batch=16, threads=1)
    assert 0 < table["target_speckled"].to_numpy().mean() < 1
    levels = judge(task, described, [(entries[3], table)])
    assert levels["patch"]["metrics"]["speckled"]["mae"]["value"] < 0.2
    assert levels["patch"]["metrics"]["speckled"]["r2"]["value"] > 0.6


def test_regression_of_a_sheet_column_is_judged_per_slide(cohort, tmp_path: Path) -> None:
    entries = labelled(cohort, grade=NUMBERS)
    task = make_task("regression", target={"source": "sheet", "column": "grade"})
    described = fit(task, entries, tmp_path / "model")
    assert described.class_names == ["grade"]
    predictor = load_model(tmp_path / "model")
    tables = [(e, predict_slide(predictor, e, batch=16, threads=1)) for e in entries[2:]]
    assert judge(task, described, tables)["slide"]["count"] == 2


def test_slide_level_class_is_learned_by_every_patch(cohort, tmp_path: Path) -> None:
    entries = labelled(cohort, kind={"s0": "a", "s1": "b", "s2": "a", "s3": "b"})
    task = make_task(target={"source": "sheet", "column": "kind", "classes": ["a", "b"]})
    described = fit(task, entries, tmp_path / "model")
    predictor = load_model(tmp_path / "model")
    tables = [(e, predict_slide(predictor, e, batch=16, threads=1)) for e in entries[2:]]
    assert set(tables[0][1]["label"].to_pylist()) == {"a"}
    assert judge(task, described, tables)["slide"]["metrics"]["all"]["auroc"]["value"] is not None


def test_several_labels_each_have_their_threshold(cohort, tmp_path: Path) -> None:
    options = {"steps": 60, "validate_every": 30}
    task = make_task("multi_label", target={"classes": CLASSES, "min_area": 0.01}, train=options)
    described = fit(task, cohort, tmp_path / "model")
    assert len(described.threshold) == 2
    table = predict_slide(load_model(tmp_path / "model"), cohort[3], batch=16, threads=1)
    metrics = judge(task, described, [(cohort[3], table)])["patch"]["metrics"]
    assert metrics["speckled"]["auroc"]["value"] > 0.9
    assert set(table["predicted"].to_pylist()) <= {"", *CLASSES, "+".join(CLASSES)}


@pytest.mark.parametrize("loss", ["weighted_ce", "focal"])
@pytest.mark.parametrize("train_options", [{"optimizer": "sgd", "schedule": "cosine"}, {"accumulate": 2, "clip": 1.0}])
def test_losses_and_optimisers_run(cohort, tmp_path: Path, loss: str, train_options: dict) -> None:
    assert fit(make_task(train={"loss": loss, **train_options}), cohort, tmp_path / "model").step in (3, 6)


def test_context_and_augmentation_run_together(cohort, tmp_path: Path) -> None:
    task = make_task(
        model={"name": "test_resnet", "context": [2.0]},
        augment={"rotate": 30, "elastic": 0.01, "hed": 0.05, "blur": 1.0},
    )
    fit(task, cohort, tmp_path / "model")
    table = predict_slide(load_model(tmp_path / "model"), cohort[3], batch=16, threads=1, flips=True)
    assert np.isfinite(table["score_smooth"].to_numpy()).all()


def test_training_starts_from_the_weights_of_an_earlier_model(cohort, tmp_path: Path) -> None:
    fit(make_task(), cohort, tmp_path / "first")
    model = {"name": "test_resnet", "pretrained": str(tmp_path / "first"), "transfer": "all", "frozen_stages": 1}
    described = fit(make_task(model=model | {"layer_decay": 0.7}), cohort, tmp_path / "second")
    assert described.architecture["pretrained"] == str(tmp_path / "first")


def test_a_model_card_includes_the_slides_of_the_model_it_started_from(cohort, tmp_path: Path) -> None:
    first = fit(make_task(), cohort, tmp_path / "first")
    msgspec.structs.replace(first, made_with=["an-earlier-slide"]).write(tmp_path / "first/model.json")
    model = {"name": "test_resnet", "pretrained": str(tmp_path / "first")}
    second = fit(make_task(model=model), cohort, tmp_path / "second")
    assert set(second.made_with) == {*first.made_with, "an-earlier-slide"}


def test_training_stops_early_without_improvement(cohort, tmp_path: Path) -> None:
    options = {"steps": 200, "validate_every": 2, "patience": 2, "learning_rate": 1e-9, "schedule": "constant"}
    fit(make_task(train=options), cohort, tmp_path / "model")
    rows = (tmp_path / "model/history.csv").read_text().splitlines()
    assert len(rows) < 50


def test_the_best_checkpoint_is_chosen_by_the_selected_figure(cohort, tmp_path: Path) -> None:
    described = fit(make_task(train={"select": "balanced_accuracy", "steps": 9}), cohort, tmp_path / "model")
    with open(tmp_path / "model/history.csv") as stream:
        rows = list(csv.DictReader(stream))
    best = max(rows, key=lambda row: float(row["val_balanced_accuracy"]))
    assert described.metrics["balanced_accuracy"] == float(best["val_balanced_accuracy"])


def test_audit_lists_every_drawn_patch_once(cohort, tmp_path: Path) -> None:
    fit(make_task(train={"audit": True}), cohort, tmp_path / "model")
    drawn = pq.read_table(tmp_path / "model/training/drawn.parquet").to_pandas()
    assert drawn.groupby("step").size().tolist() == [8] * 6
    patches, _ = read_table(cohort[0].table)
    place = dict(
        zip(patches["patch_id"].to_pylist(), zip(*(patches[c].to_pylist() for c in "xy"), strict=True), strict=True)
    )
    first = drawn[drawn.slide_id == "s0"]
    assert [place[p] for p in first.patch_id] == list(zip(first.x, first.y, strict=True))


def test_audit_of_an_interrupted_run_lists_what_an_uninterrupted_one_draws(cohort, tmp_path: Path, monkeypatch) -> None:
    task = make_task(train={"audit": True, "accumulate": 2})
    fit(task, cohort, tmp_path / "whole")
    original, stops = PatchObjective.loss_of, {1, 2}

    def interrupted(self, batch, step):
        if step in stops:
            stops.remove(step)
            signal.raise_signal(signal.SIGTERM)
        return original(self, batch, step)

    monkeypatch.setattr(PatchObjective, "loss_of", interrupted)
    for _ in range(2):
        with pytest.raises(PreemptedError):
            fit(task, cohort, tmp_path / "stopped")
    fit(task, cohort, tmp_path / "stopped")
    tables = [pq.read_table(tmp_path / name / "training/drawn.parquet") for name in ("whole", "stopped")]
    assert tables[0].num_rows == 12 * 8
    assert tables[0].equals(tables[1])


def test_a_loss_that_is_not_finite_stops_the_run_naming_step_and_place(cohort, tmp_path: Path, monkeypatch) -> None:
    original = PatchObjective.loss_of

    def poisoned(self, batch, step):
        loss = original(self, batch, step)
        return loss * float("nan") if step == 4 else loss

    monkeypatch.setattr(PatchObjective, "loss_of", poisoned)
    with pytest.raises(HistomakeError, match=r"not a number at step 4; .*s[01] \(\d+, \d+\)"):
        fit(make_task(), cohort, tmp_path / "model")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
@pytest.mark.parametrize(
    ("advice", "expected"),
    [
        (TRAINING, r"batches of 32 .*halve train\.batch and double train\.accumulate"),
        (PREDICTING, r"halve predict\.batch"),
    ],
)
def test_running_out_of_memory_comes_with_advice(error: Exception, advice: str, expected: str) -> None:
    with pytest.raises(HistomakeError, match=expected), advise_on_memory(advice.format(batch=32)):
        raise error


def test_half_precision_on_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        choose_runtime("fp16", threads=1)


PIXELS = {"kind": "segmentation", "target": {"source": "mask", "classes": ["a", "b"]}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "segmentation"},
        {"kind": "regression", "target": {"source": "sheet", "column": "g", "classes": ["a", "b"]}},
        {"target": {"classes": ["a"]}},
        {"target": {"classes": ["a", "a"]}},
        {"train": {"loss": "dice"}},
        {"train": {"select": "r2"}},
        {"train": {"shares": {"c": 1}}},
        {"train": {"shares": {"a": 1}, "balance": "area"}},
        {"train": {"factors": {"c": 2}}},
        {"train": {"factors": {"a": 2}, "shares": {"a": 1}}},
        {"train": {"containing": {"a": 0.6, "b": 0.5}}},
        {"model": {"name": "alexnet", "pretrained": True}},
        {**PIXELS, "model": {"name": "fast_scnn", "pretrained": True}},
        {**PIXELS, "model": {"name": "fcn", "pretrained": True}},
        {**PIXELS, "model": {"name": "unet", "dropout": 0.1}},
    ],
)
def test_settings_that_do_not_fit_together_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError, match=r"target|train|model\."):
        Task.model_validate({"grid": "g", "target": {"classes": ["a", "b"]}} | wrong)


def reader_and_batches(cohort, task: Task) -> tuple[PatchReader, TrainingBatches]:
    patches = known_patches(cohort[:2], task)
    reader = PatchReader(patches, task.model)
    sampler = Sampler.from_weights(np.ones(len(patches)), seed=0)
    return reader, TrainingBatches(reader, sampler, task, worker=0)


def drawn_shares(cohort, tmp_path: Path, **options) -> np.ndarray:
    """Share of each class among many draws."""
    task = make_task(train=options | {"batch": 64})
    patches = known_patches(cohort[:2], task)
    held_out = patches.take(np.arange(8))
    sampler = objective_of(task, patches, held_out, tmp_path).dataset().sampler
    drawn = np.concatenate([patches.target[sampler.draw(step, 64)] for step in range(60)])
    return np.bincount(drawn, minlength=2) / len(drawn)


def test_a_factor_draws_a_class_more_often_than_its_balance(cohort, tmp_path: Path) -> None:
    assert drawn_shares(cohort, tmp_path) == pytest.approx([0.5, 0.5], abs=0.03)
    assert drawn_shares(cohort, tmp_path, factors={"speckled": 3}) == pytest.approx([0.25, 0.75], abs=0.03)
    by_area = drawn_shares(cohort, tmp_path, balance="area")
    fewer = drawn_shares(cohort, tmp_path, balance="area", factors={"smooth": 0.5})
    assert fewer[0] / fewer[1] == pytest.approx(by_area[0] / by_area[1] / 2, rel=0.15)


def test_a_share_of_a_class_without_training_patches_is_named(cohort, tmp_path: Path) -> None:
    task = make_task("multi_label", target={"classes": CLASSES, "min_area": 0.0}, train={"shares": {"none": 0.3}})
    patches = known_patches(cohort[:2], task)
    with pytest.raises(HistomakeError, match=r"train\.shares: no training patch is none"):
        draw_weights(patches, task)


def test_a_class_to_contain_without_annotation_is_named(cohort, tmp_path: Path) -> None:
    task = make_task(target={"classes": CLASSES}, train={"containing": {"speckled": 0.2}})
    patches = known_patches(cohort[:2], task)
    smooth = patches.take(~patches_containing(patches, "speckled"))
    objective = objective_of(task, smooth, smooth, tmp_path)
    with pytest.raises(HistomakeError, match=r"no training patch contains speckled \(slides: s0, s1"):
        objective.dataset()


def test_random_places_leave_the_grid_but_keep_class_and_tissue(cohort) -> None:
    task = make_task(train={"positions": "random", "batch": 64})
    reader, batches = reader_and_batches(cohort, task)
    batch = batches[0]
    patches = reader.patches
    moved = (batch.x != patches.x[batch.index]) | (batch.y != patches.y[batch.index])
    assert moved.mean() > 0.5
    assert np.abs(batch.x - patches.x[batch.index]).max() <= 32
    shares = batches.places.shares(batch.index, batch.x, batch.y)
    assert (shares.argmax(1) == patches.target[batch.index]).all()
    again = batches[0]
    assert np.array_equal(again.x, batch.x)


def test_random_places_of_regression_have_the_share_annotated_there(cohort) -> None:
    task = make_task("regression", target={"classes": ["speckled"]}, train={"positions": "random", "batch": 64})
    reader, batches = reader_and_batches(cohort, task)
    batch = batches[0]
    for slot in range(8):
        region = reader.pool.annotation(int(reader.patches.slide[batch.index[slot]])).union_by_class["speckled"]
        left = region.bounds[0]
        exact = np.clip(batch.x[slot] + 64 - left, 0, 64) / 64
        inside = np.clip(min(SIDE, batch.y[slot] + 64) - batch.y[slot], 0, 64) / 64
        assert float(batch.target[slot, 0]) == pytest.approx(exact * inside, abs=0.05)


def test_place_without_enough_tissue_around_stays_on_the_grid() -> None:
    table = pa.table({"x": [0, 64], "y": [0, 0], "tissue": [1.0, 0.0], "excluded": ["", "background"]})
    lattice = TissueLattice(table)
    assert lattice.tissue(np.array([32]), np.array([0]))[0] == pytest.approx(0.5)
    x, y = move(lattice, 0, 0, min_tissue=0.99, rng=counter_rng(0))
    assert (x, y) == (0, 0) or lattice.tissue(np.array([x]), np.array([y]))[0] >= 0.99


def test_coarser_views_share_the_centre(cohort) -> None:
    patches = known_patches(cohort[:1], make_task())
    reader = PatchReader(patches, Model(context=[2.0]))
    index = np.array([len(patches) // 2])
    pixels, errors = reader.read(index, patches.x[index], patches.y[index])
    assert not errors
    fine, coarse = pixels[0, ..., :3].astype(float), pixels[0, ..., 3:].astype(float)
    centre = fine.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(centre - coarse[16:48, 16:48]).mean() < 12


def test_patches_containing_a_class_are_found_for_any_area(tmp_path: Path) -> None:
    entry = build_slide(Layout(tmp_path), "s", seed=1, grid=Grid(size=64, mpp=1.0, stride=48))
    patches = known_patches([entry], make_task())
    table, _ = read_table(entry.table)
    areas = dict(zip(table["patch_id"].to_pylist(), table["area_speckled"].to_pylist(), strict=True))
    expected = [areas[p] > 0 for p in patches.patch_id.tolist()]
    assert patches_containing(patches, "speckled").tolist() == expected


def test_classes_of_pixels_weigh_by_their_area_and_not_by_the_patches_they_fill(tmp_path: Path) -> None:
    entry = build_slide(Layout(tmp_path), "s", seed=1, grid=Grid(size=64, mpp=1.0, stride=48))
    target = {"source": "mask", "classes": ["speckled"], "unlabelled": "background"}
    patches = known_patches([entry], make_task("segmentation", target=target, model={"name": "fast_scnn"}))
    # As if the class filled no patch by half, as a rare structure does.
    never_first = replace(patches, target=np.zeros_like(patches.target))
    table, _ = read_table(entry.table)
    usable = table.filter([str(reason) == "" for reason in table["excluded"].to_pylist()])
    area = usable["area_speckled"].to_numpy().sum()
    sizes = output_sizes(never_first, ["background", "speckled"], kind="segmentation")
    assert sizes == pytest.approx([usable.num_rows - area, area], rel=1e-5)
    assert output_sizes(never_first, ["a", "b"], kind="classification").tolist() == [usable.num_rows, 0]


@pytest.mark.parametrize(("unlabelled", "other"), [("ignore", UNLABELLED), ("background", 0)])
def test_masks_distinguish_learned_and_ignored_pixels(cohort, unlabelled: str, other: int) -> None:
    target = {"source": "mask", "classes": ["speckled", "smooth"], "unlabelled": unlabelled}
    task = make_task("segmentation", target=target, model={"name": "fast_scnn"})
    patches = known_patches(cohort[:1], task)
    only = Target(source="mask", classes=["speckled", "absent"], unlabelled=unlabelled)
    everything = MaskReader(patches, task.target).read(
        *(a[:40] for a in (np.arange(len(patches)), patches.x, patches.y))
    )
    some = MaskReader(patches, only).read(*(a[:40] for a in (np.arange(len(patches)), patches.x, patches.y)))
    speckled = 0 if unlabelled == "ignore" else 1
    assert np.array_equal(some == speckled, everything == speckled)
    assert set(np.unique(some)) <= {speckled, other}


def test_losses_are_zero_for_perfect_predictions_and_ignore_unknown_pixels() -> None:
    target = torch.tensor([[[0, 1], [1, -1]]])
    perfect = torch.nn.functional.one_hot(target.clamp(min=0), 2).permute(0, 3, 1, 2).float() * 40 - 20
    wrong_where_unknown = perfect.clone()
    wrong_where_unknown[0, :, 1, 1] *= -1
    for loss in (cross_entropy, focal, dice, generalised_dice):
        assert float(loss(perfect, target)) == pytest.approx(0, abs=1e-4)
        assert float(loss(wrong_where_unknown, target)) == pytest.approx(float(loss(perfect, target)), abs=1e-6)
        assert float(loss(-perfect, target)) > 0.4


def test_focal_loss_without_focus_is_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histomake.learn.objectives.losses.FOCAL_GAMMA", 0.0)
    logits, target = torch.randn(8, 3), torch.randint(0, 3, (8,))
    assert float(focal(logits, target)) == pytest.approx(float(cross_entropy(logits, target)), rel=1e-5)


@pytest.mark.parametrize("name", ["bce", "mse", "huber"])
def test_unknown_targets_do_not_contribute_to_the_loss(name: str) -> None:
    loss = build_loss(name)
    logits = torch.tensor([[1.0, 5.0]])
    assert torch.isfinite(loss(logits, torch.tensor([[1.0, float("nan")]])))
    assert float(loss(logits, torch.tensor([[1.0, float("nan")]]))) == float(loss(logits[:, :1], torch.tensor([[1.0]])))


def table_of(**areas: list[float]):
    return pa.table({f"area_{name}": np.array(values, np.float32) for name, values in areas.items()})


LOSSES = sorted(set(get_args(Train.model_fields["loss"].annotation)) - {"auto"})


def test_every_loss_that_can_be_chosen_fits_a_kind_and_can_be_built() -> None:
    assert {loss for accepted in ACCEPTED.values() for loss in accepted.losses} == set(LOSSES)
    for name in LOSSES:
        assert callable(build_loss(name))


# Two patches of two classes: p = 3/4, 1/4 and truly the first; p = 1/2, 1/2 and truly the second.
CLASSES_OF_TWO = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
LABELS_OF_ONE = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[1.0, 0.0]])
# Hazards 2, 1 and 3; the first two have the event at the same time, while all are at risk.
SURVIVAL_OF_THREE = (
    torch.tensor([[math.log(2)], [0.0], [math.log(3)]]),
    torch.tensor([[5.0, 1.0], [5.0, 1.0], [9.0, 0.0]]),
)
NUMBERS_OF_ONE = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 5.0]])
FIRST, SECOND = -math.log(3 / 4), -math.log(1 / 2)
DICE = 1 - ((2 * 3 / 4 + 1) / (5 / 4 + 1 + 1) + (2 * 1 / 2 + 1) / (3 / 4 + 1 + 1)) / 2

BY_HAND = {
    "ce": (CLASSES_OF_TWO, (FIRST + SECOND) / 2),
    "weighted_ce": (CLASSES_OF_TWO, (FIRST + 3 * SECOND) / 4),
    "focal": (CLASSES_OF_TWO, (FIRST / 4**2 + SECOND / 2**2) / 2),
    "dice": (CLASSES_OF_TWO, DICE),
    "dice_ce": (CLASSES_OF_TWO, DICE + (FIRST + SECOND) / 2),
    "generalised_dice": (CLASSES_OF_TWO, 1 - 2 * (3 / 4 + 1 / 2) / (5 / 4 + 3 / 4 + 2)),
    "bce": (LABELS_OF_ONE, (FIRST + SECOND) / 2),
    "mse": (NUMBERS_OF_ONE, (1 + 4) / 2),
    "cox_efron": (SURVIVAL_OF_THREE, -(math.log(2 / 6) + math.log(1 / (6 - 3 / 2))) / 2),
    "cox_breslow": (SURVIVAL_OF_THREE, -(math.log(2 / 6) + math.log(1 / 6)) / 2),
    # Of hazards 2 and 1 in the only interval, which has no middle that the third could pass.
    "hazards": (SURVIVAL_OF_THREE, -(math.log(1 - math.exp(-2)) + math.log(1 - math.exp(-1))) / 3),
    "huber": (NUMBERS_OF_ONE, (1 / 2 + (2 - 1 / 2)) / 2),
}
"""Outputs, targets and value of every loss; the weights of the classes are 1 and 3."""


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_has_the_value_that_is_computed_by_hand(name: str) -> None:
    (logits, target), expected = BY_HAND[name]
    loss = build_loss(name, class_weights=torch.tensor([1.0, 3.0]))
    assert float(loss(logits, target)) == pytest.approx(expected, rel=1e-5)


def test_unannotated_patches_never_take_the_first_class() -> None:
    target = Target(classes=["a", "b"], min_area=0.0)
    table = table_of(a=[0, 0.2, 0.6], b=[0, 0.3, 0.1])
    found = patch_targets(table, "classification", target, labels={}, annotated=True, slide_id="s")
    assert found.tolist() == [UNLABELLED, 1, 0]


def test_slides_without_annotation_are_unknown_and_not_empty() -> None:
    table = table_of(a=[0, 0])
    target = Target(classes=["a"], min_area=0.01)
    for annotated, expected in ((True, 0.0), (False, np.nan)):
        found = patch_targets(table, "multi_label", target, labels={}, annotated=annotated, slide_id="s")
        assert found == pytest.approx(np.full((2, 1), expected), nan_ok=True)


@pytest.mark.parametrize(("kind", "cell"), [("classification", "c"), ("regression", "much"), ("regression", "inf")])
def test_sheet_value_that_fits_no_class_or_number_is_named(kind: str, cell: str) -> None:
    classes = ["a", "b"] if kind == "classification" else []
    target = Target(source="sheet", column="grade", classes=classes)
    with pytest.raises(ConfigError, match=f"slide s7: grade is '{cell}'"):
        slide_target(kind, target, {"grade": cell}, np.zeros(0), slide_id="s7")


def test_patches_with_several_labels_are_balanced_by_their_rarest() -> None:
    target = np.array([[1, 0], [1, 1], [1, 0], [0, 0], [np.nan, np.nan]], np.float32)
    assert balance_group(target).tolist() == [0, 1, 0, 2, UNLABELLED]


def test_threshold_separates_what_can_be_separated() -> None:
    score = np.array([0.1, 0.2, 0.7, 0.9])
    assert choose_threshold(score, score > 0.5) == pytest.approx(0.45)


def test_slides_get_thresholds_of_their_own_for_every_pooling() -> None:
    score = np.array([0.1, 0.3, 0.2, 0.6, 0.7, 0.2])
    slide, truth = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    found = class_thresholds(np.stack([1 - score, score], 1), truth, slide, np.ones(6))
    assert 0.2 < found.slide_thresholds["mean"] < 0.5
    assert 0.3 < found.slide_thresholds["max"] < 0.7


def test_each_pooling_computes_what_its_name_says() -> None:
    scores = np.linspace(0, 1, 21)[:, None]
    tissue = np.zeros(21)
    tissue[-1] = 1
    assert pool_scores(scores, "mean", tissue)[0] == pytest.approx(0.5)
    assert pool_scores(scores, "max", tissue)[0] == 1
    assert pool_scores(scores, "area", tissue)[0] == 1
    assert pool_scores(scores, "top10", tissue)[0] == pytest.approx(scores[-10:].mean())


def test_regression_figures_of_perfect_and_constant_answers() -> None:
    target = np.array([[1.0], [2.0], [np.nan]])
    assert regression_scores(target, target) == {"mae": 0.0, "r2": 1.0}
    assert regression_scores(np.full((3, 1), 1.5), target)["r2"] == pytest.approx(0)


def test_identity_of_a_run_follows_data_and_settings(cohort, tmp_path: Path) -> None:
    def identity(task: Task, entries, seed: int = 0) -> str:
        patches = known_patches(entries, task)
        return trainer_of(task, patches, patches, tmp_path, seed=seed).identity

    base = identity(make_task(), cohort[:2])
    assert identity(make_task(), cohort[:2]) == base
    assert identity(make_task(predict={"batch": 3}), cohort[:2]) == base
    others = [identity(make_task(), cohort[1:3]), identity(make_task(), cohort[:2], seed=1)]
    others.append(identity(make_task(train={"steps": 7}), cohort[:2]))
    running = {"workers": 1, "checkpoint_minutes": 3, "max_read_errors": 2}
    assert identity(make_task(train=running), cohort[:2]) == base
    assert base not in others


def test_rare_structure_that_covers_no_patch_by_half_can_be_segmented(tmp_path: Path) -> None:
    entry = build_slide(Layout(tmp_path), "s", seed=1, grid=Grid(size=64, mpp=1.0))
    task = make_task(
        "segmentation",
        target={"source": "mask", "classes": CLASSES, "unlabelled": "background"},
        model={"name": "fast_scnn"},
    )
    patches = known_patches([entry], task)
    # As if the second class were nowhere dominant, though the table says that patches contain it.
    mostly_first = replace(patches, target=np.ones_like(patches.target))
    check_classes(mostly_first, mostly_first, task)


def test_a_selected_figure_that_is_undefined_on_the_validation_slides_is_refused_at_once(
    cohort, tmp_path: Path
) -> None:
    task = make_task(train={"select": "auroc"})
    patches = known_patches(cohort[:2], task)
    one_class = patches.take(patches.target == 0)
    trainer = trainer_of(task, patches, one_class, tmp_path)
    with pytest.raises(HistomakeError, match=r"auroc is not defined on the validation patches \(slides s0, s1"):
        trainer.record()
