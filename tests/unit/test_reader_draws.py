"""Training on the labels of readers: rows by reader, how often they are drawn, masks, refusals, and killed runs."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from histomake.base.errors import HistomakeError
from histomake.base.files import sha256_file
from histomake.base.layout import Layout
from histomake.base.records.cohort import CohortSlide
from histomake.base.records.record import write_list
from histomake.cohort.sheet import read_sheet
from histomake.config import Grid, parse_config
from histomake.learn.data.batches import TrainingBatches
from histomake.learn.data.cohort import read_cohort
from histomake.learn.data.drawing import draw_weights
from histomake.learn.data.patch_index import SlideEntry, output_sizes, patches_containing
from histomake.learn.data.reading import PatchReader
from histomake.learn.engine.runtime import PreemptedError
from histomake.learn.objectives.patches import PatchObjective
from histomake.learn.train import known_patches, train, training_patches
from histomake.patch.sampler import Sampler
from histomake.pictures.drawn_sheet import drawn_sheet
from histomake.planning.misfits import misfits
from histomake.planning.network_memory import cohort_patches, patches_mb
from histomake.planning.plan import make_plan
from histomake.planning.reader_plan import ReaderPlan
from small_cohort import CLASSES, GRID_NAME, MPP, SIDE, build_reading, build_slide, changed_task
from train_killed import kill_repeatedly

SMOOTH, SPECKLED = range(2)
GRID = Grid(size=64, mpp=MPP)
READERS = ("alice", "bob")
ROWS = SIDE // 64
"""Patches in a column; a slide has seven columns with tissue."""
TASK = {
    "grid": GRID_NAME,
    "target": {"classes": CLASSES},
    "model": {"name": "test_resnet"},
    "train": {"readers": "draw", "steps": 6, "batch": 8, "validate_every": 3, "workers": 0},
}
PIXELS = {
    "kind": "segmentation",
    "target": {"source": "mask", "classes": CLASSES, "unlabelled": "background"},
    "model": {"name": "fast_scnn"},
}
KILLS = 10


def make_task(**changes):
    return changed_task(TASK, changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides. Of the first, alice says smooth to x = 256, then speckled; bob smooth to 384, then nothing."""
    layout = Layout(tmp_path_factory.mktemp("drawn"))
    for number in range(3):
        build_slide(layout, f"s{number}", seed=number, grid=GRID)
    build_reading(layout, "s0", "alice", grid=GRID, smooth=(0, 256), speckled=(256, SIDE))
    build_reading(layout, "s0", "bob", grid=GRID, smooth=(0, 384))
    return layout.results


@pytest.fixture
def entries(root) -> list[SlideEntry]:
    return [SlideEntry.at(Layout(root), GRID_NAME, f"s{i}", f"p{i}", {}, READERS if i == 0 else ()) for i in range(3)]


def readers_of(patches) -> np.ndarray:
    return np.array([patches.entries[slide].reader or "" for slide in patches.slide])


def fit(task, entries, output: Path):
    places = {"output": output, "state": output.with_name(f"{output.name}.state")}
    return train(task, train=entries[:2], val=entries[2:], class_names=CLASSES, **places, seed=7, threads=1)


def test_a_patch_has_a_row_for_each_reader_who_labelled_it(entries):
    patches = training_patches(entries[:1], make_task())
    reader = readers_of(patches)
    for name, expected in (("alice", {SMOOTH: 3 * ROWS, SPECKLED: 4 * ROWS}), ("bob", {SMOOTH: 5 * ROWS})):
        classes, counts = np.unique(patches.target[reader == name], return_counts=True)
        assert dict(zip(classes.tolist(), counts.tolist(), strict=True)) == expected
    assert patches.parts[reader == "bob"].tolist() == [0.5] * (5 * ROWS)
    assert patches.parts.sum() == 7 * ROWS


def test_without_draws_the_readers_are_not_looked_at(entries):
    patches = training_patches(entries, make_task(train={"readers": "consensus"}))
    assert set(readers_of(patches)) == {""}
    assert (patches.parts == 1).all()


def test_validation_has_the_labels_of_the_slide(entries):
    held_out = known_patches(entries, make_task())
    assert set(readers_of(held_out)) == {""}
    assert np.array_equal(held_out.target, known_patches(entries, make_task(train={"readers": "consensus"})).target)


def test_readers_of_a_patch_are_drawn_equally_and_a_slide_as_often_as_one_with_a_single_reader(entries):
    patches = training_patches(entries[:2], make_task())
    reader = readers_of(patches)
    for balance in ("area", "slide"):
        weights = draw_weights(patches, make_task(train={"balance": balance}))
        of_both = (patches.slide_number == 0) & (patches.x < 384)
        assert weights[of_both & (reader == "alice")].sum() == pytest.approx(weights[reader == "bob"].sum())
        assert weights[patches.slide_number == 0].sum() == pytest.approx(0.5)


def test_classes_are_balanced_by_what_the_readers_said(entries):
    patches = training_patches(entries[:2], make_task())
    weights = draw_weights(patches, make_task())
    assert weights[patches.target == SMOOTH].sum() == pytest.approx(0.5)
    assert weights.sum() == pytest.approx(1)


def test_draws_have_the_frequencies_of_their_weights(entries):
    patches = training_patches(entries[:1], make_task())
    weights = draw_weights(patches, make_task(train={"balance": "area"}))
    drawn = np.bincount(Sampler.from_weights(weights, seed=3).draw(0, 40_000), minlength=len(patches)) / 40_000
    by_bob = readers_of(patches) == "bob"
    assert drawn[by_bob].sum() == pytest.approx(5 / 7 / 2, abs=0.01)


def test_a_class_that_one_reader_drew_is_contained_in_that_readers_rows(entries):
    patches = training_patches(entries[:1], make_task())
    contains = patches_containing(patches, "speckled")
    assert set(readers_of(patches)[contains]) == {"alice"}
    weights = draw_weights(patches, make_task(train={"containing": {"speckled": 0.7}, "balance": "area"}))
    assert weights[contains].sum() == pytest.approx(0.7 + 0.3 * 3 / 7)


def test_sizes_of_classes_count_a_patch_once(entries):
    patches = training_patches(entries[:1], make_task())
    sizes = output_sizes(patches, CLASSES, kind=make_task().kind)
    assert sizes.sum() == 7 * ROWS
    assert sizes[SPECKLED] == 2 * ROWS / 2 + 2 * ROWS
    task = make_task(**PIXELS)
    areas = output_sizes(training_patches(entries[:1], task), ["background", *CLASSES], kind=task.kind)
    assert areas == pytest.approx([ROWS, 4 * ROWS, 2 * ROWS])


def batches_of(task, entries) -> TrainingBatches:
    patches = training_patches(entries, task)
    sampler = Sampler.from_weights(draw_weights(patches, task), seed=1)
    return TrainingBatches(PatchReader(patches, task.model), sampler, task, worker=0)


def test_masks_are_those_of_the_drawn_reader(entries):
    batches = batches_of(make_task(**PIXELS, train={"batch": 64}), entries[:1])
    batch = batches[0]
    reader, met = readers_of(batches.patches)[batch.index], set()
    for mask, x, name in zip(batch.target.numpy(), batch.x, reader, strict=True):
        columns = x + np.arange(64)
        expected = np.where(columns < 256, 1, 2) if name == "alice" else np.where(columns < 384, 1, 0)
        assert (mask == expected).all()
        met |= {(name, value) for value in np.unique(mask).tolist()}
    assert met == {("alice", 1), ("alice", 2), ("bob", 0), ("bob", 1)}


def test_shares_of_moved_patches_are_those_of_the_drawn_reader(entries):
    task = make_task(kind="regression", target={"classes": ["speckled"]}, train={"positions": "random", "batch": 64})
    batches = batches_of(task, entries[:1])
    batch = batches[0]
    reader, shares = readers_of(batches.patches)[batch.index], batch.target.numpy()[:, 0]
    assert (shares[reader == "bob"] == 0).all()
    wide = np.minimum(batch.x + 64, SIDE) - np.maximum(batch.x, 256)
    high = np.minimum(batch.y + 64, SIDE) - np.maximum(batch.y, 0)
    expected = np.maximum(wide, 0) * high / 64**2
    assert shares[reader == "alice"] == pytest.approx(expected[reader == "alice"], abs=1 / 32)
    assert ((shares > 0) & (shares < 1)).any()


def test_the_audit_says_whose_label_was_drawn_also_of_an_interrupted_run(entries, tmp_path: Path, monkeypatch):
    task = make_task(train={"audit": True})
    fit(task, entries, tmp_path / "whole")
    original, stops = PatchObjective.loss_of, {1, 4}

    def interrupted(self, batch, step):
        if step in stops:
            stops.remove(step)
            signal.raise_signal(signal.SIGTERM)
        return original(self, batch, step)

    monkeypatch.setattr(PatchObjective, "loss_of", interrupted)
    for _ in range(2):
        with pytest.raises(PreemptedError):
            fit(task, entries, tmp_path / "stopped")
    fit(task, entries, tmp_path / "stopped")
    whole, stopped = (pq.read_table(tmp_path / name / "training/drawn.parquet") for name in ("whole", "stopped"))
    assert whole.equals(stopped)
    drawn = {(row["slide_id"], row["reader"]) for row in whole.to_pylist()}
    assert drawn == {("s0", "alice"), ("s0", "bob"), ("s1", None)}


def test_the_sheet_of_drawn_patches_reads_the_readers(root, entries):
    layout = Layout(root)
    fit(make_task(train={"audit": True}), entries, layout.model("t", 0))
    assert drawn_sheet(layout, "t", 0, batches=None, patches=4).ndim == 3


@pytest.mark.timeout(300)
def test_a_run_that_is_killed_ten_times_ends_with_the_weights_of_one_left_alone(root, entries, tmp_path: Path):
    task = make_task(train={"steps": 60, "validate_every": 25, "checkpoint_minutes": 0.003})
    whole, consensus = tmp_path / "whole", tmp_path / "consensus"
    fit(task, entries, whole)
    assert kill_repeatedly(root, task, tmp_path / "killed", kills=KILLS, readers=READERS) < 60
    fit(task, entries, tmp_path / "killed")
    for file in ("model.safetensors", "model.json"):
        assert (tmp_path / "killed" / file).read_bytes() == (whole / file).read_bytes()
    fit(make_task(train={"steps": 60, "validate_every": 25, "readers": "consensus"}), entries, consensus)
    assert (consensus / "model.safetensors").read_bytes() != (whole / "model.safetensors").read_bytes()


def test_the_readers_of_a_slide_are_given_to_other_processes(entries):
    assert [SlideEntry.parse(entry.dump()) for entry in entries] == entries


def test_a_cohort_states_the_files_of_its_readers_and_refuses_other_ones(root, tmp_path: Path):
    layout, path = Layout(root), tmp_path / "cohort.json"
    readings = [layout.reading("s0", reader) for reader in READERS]
    stated = {files.reader: [sha256_file(files.table(GRID_NAME)), sha256_file(files.record)] for files in readings}
    write_list(
        path,
        [
            CohortSlide(
                slide_id="s0",
                patient_id="p0",
                role="train",
                labels={},
                patches=100,
                readers=stated,
                digests=[
                    sha256_file(file)
                    for file in (layout.manifest("s0"), layout.table(GRID_NAME, "s0"), layout.annotation("s0"))
                ],
            )
        ],
    )
    cohort = read_cohort(layout, path, grid=GRID_NAME)
    assert [entry.reader for entry in cohort.train[0].by_reader()] == list(READERS)
    assert cohort_patches(path)[0].rows == 200
    assert patches_mb(cohort_patches(path)) > 0
    kept = readings[1].record.read_bytes()
    readings[1].record.write_bytes(kept + b" ")
    try:
        with pytest.raises(HistomakeError, match="not the bytes that the training cohort was made of") as caught:
            read_cohort(layout, path, grid=GRID_NAME)
    finally:
        readings[1].record.write_bytes(kept)
    assert str(readings[1].record) in str(caught.value)
    assert str(readings[0].record) not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": {"source": "sheet", "column": "grade", "classes": ["low", "high"]}}, "have no readers"),
        ({"features": "uni", "head": "knn", "model": {}, "train": {"readers": "draw"}}, "knn does not use it"),
        (
            {"level": "slide", "features": "uni", "target": {"source": "sheet", "column": "g", "classes": ["a", "b"]}},
            "slides or patients does not use it",
        ),
    ],
)
def test_tasks_that_cannot_learn_from_readers_are_refused(changes, reason):
    told = {key: value for key, value in TASK.items() if key != "model"} | {"train": {"readers": "draw"}} | changes
    content = {"encoders": {"uni": {"name": "resnet18", "grid": GRID_NAME}}, "grids": {GRID_NAME: {}}}
    content["annotations"] = {"classes": {name: name for name in CLASSES}}
    with pytest.raises(HistomakeError, match=r"train\.readers") as caught:
        parse_config(content | {"tasks": {"t": told}})
    assert reason in str(caught.value)


def plan_of(tmp_path: Path, *rows: str):
    sheet = tmp_path / "slides.tsv"
    sheet.write_text("\n".join(["slide_id\tpath\tpatient_id\tannotation\tsplit", *rows]) + "\n")
    config = parse_config(
        {
            "sheet": str(sheet),
            "grids": {GRID_NAME: {}},
            "annotations": {"classes": {name: name for name in CLASSES}},
            "tasks": {"t": TASK},
        }
    )
    return make_plan(config, read_sheet(config.sheet, config, check_files=False))


def test_a_plan_lists_the_readers_of_training_slides_only(tmp_path: Path):
    plan = plan_of(
        tmp_path,
        "s0\ts0.svs\tp0\tb=b.xml;a=a.xml\ttrain",
        "s1\ts1.svs\tp1\ta.xml\ttrain",
        "s2\ts2.svs\tp2\ta=c.xml;b=d.xml\tval",
        "s3\ts3.svs\tp3\te.xml\ttest",
    )
    readers, layout = ReaderPlan(plan), plan.layout
    assert readers.drawn("t", 0) == {"s0": ["a", "b"]}
    files = [layout.reading("s0", reader) for reader in ("a", "b")]
    assert readers.readings("t", 0) == [path for one in files for path in (one.table(GRID_NAME), one.record)]
    assert not misfits(plan)


def test_draws_without_a_training_slide_of_several_readers_are_refused_before_the_run(tmp_path: Path):
    plan = plan_of(
        tmp_path,
        "s0\ts0.svs\tp0\ta.xml\ttrain",
        "s1\ts1.svs\tp1\ta=c.xml;b=d.xml\tval",
        "s2\ts2.svs\tp2\te.xml\ttest",
    )
    assert any("tasks.t.train.readers: draw, but no slide" in line for line in misfits(plan))
