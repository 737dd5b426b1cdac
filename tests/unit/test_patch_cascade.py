"""Cascades over patches: decisions by thresholds, equality of simulation and deployment, and the search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.layout import Layout
from histomake.cascade.patch_cascade import STATES, run_stages
from histomake.cascade.patch_prediction import predict_cascade
from histomake.cascade.patch_search import find_stage_thresholds, thresholds_record
from histomake.cascade.stage_scores import Stage, StoredScores, read_dense
from histomake.config import Cascade, Grid, StageThresholds, Task, ThresholdChoice
from histomake.learn.inference.predict import load_model, predict_slide
from histomake.learn.train import train
from histomake.patch.table import METADATA_KEY
from histomake.pictures import canvas
from histomake.pictures.stage_maps import deciders, stage_maps
from histomake.slide.reader import open_slide
from hypothesis import given
from hypothesis import strategies as st
from small_cohort import CLASSES, GRID_NAME, MPP, build_slide

from tests import sample_records

SIZES = {"coarse": (32, 4.0), "fine": (32, 1.0)}
TARGET = "speckled"
OPEN = StageThresholds(lower=[0.0], upper=[1.0])
FINEST_ALONE = StageThresholds(lower=[], upper=[])


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Classifiers at 4 and 1 µm/px, trained on two slides, and applied to a third."""
    made = []
    for name, (size, mpp) in SIZES.items():
        root = tmp_path_factory.mktemp(name)
        grid = Grid(size=size, mpp=mpp * MPP)
        entries = [build_slide(Layout(root), f"s{i}", seed=i, grid=grid) for i in range(3)]
        options = {"steps": 25, "batch": 8, "validate_every": 25, "workers": 0, "learning_rate": 1e-3}
        task = Task(grid=GRID_NAME, target={"classes": CLASSES}, model={"name": "resnet10t"}, train=options)
        places = {"output": root / "model", "state": root / "state"}
        train(task, train=entries[:1], val=entries[1:2], class_names=CLASSES, **places, seed=0, threads=1)
        made.append(Stage(load_model(root / "model"), entries[2], batch=8))
    return made


@pytest.fixture(scope="module")
def dense(stages, tmp_path_factory):
    """The third slide with the dense predictions of both stages."""
    folder, paths = tmp_path_factory.mktemp("dense"), []
    for number, stage in enumerate(stages):
        paths.append(folder / f"{number}.parquet")
        pq.write_table(predict_slide(stage.predictor, stage.entry, batch=8, threads=1), paths[-1])
    return read_dense([s.predictor.task for s in stages], [s.entry for s in stages], paths, TARGET)


def deployed(stages, thresholds):
    return predict_cascade(stages, TARGET, thresholds, threads=1)


def test_open_thresholds_and_the_finest_stage_alone_give_its_dense_predictions(stages, dense):
    for thresholds in (OPEN, FINEST_ALONE):
        table = deployed(stages, thresholds).table
        np.testing.assert_array_equal(table["score"].to_numpy(), dense.answers.scores[1])
        assert set(table["state"].to_pylist()) == {"computed"}


def test_closed_thresholds_leave_every_patch_to_the_coarsest_stage_that_contains_it(stages):
    found = deployed(stages, StageThresholds(lower=[1.0], upper=[1.0]))
    coarse = predict_slide(stages[0].predictor, stages[0].entry, batch=8, threads=1)
    by_cell = {(r["x"] // 128, r["y"] // 128): r["score_speckled"] for r in coarse.to_pylist()}
    rows = found.table.to_pylist()
    for row in (row for row in rows if row["stage"] == 1):
        assert row["score"] == pytest.approx(by_cell[(row["x"] // 128, row["y"] // 128)])
        assert row["state"] == "rejected"
    assert found.record.stages[1].computed == sum(row["stage"] == 2 for row in rows)
    assert found.record.saved > 0.5


def test_intermediate_thresholds_split_the_patches_by_the_coarse_score(stages, dense):
    lower, upper = (float(np.quantile(dense.answers.scores[0], q)) for q in (0.3, 0.7))
    rows = deployed(stages, StageThresholds(lower=[lower], upper=[upper])).table.to_pylist()
    assert {r["state"] for r in rows} == {"rejected", "computed", "accepted"}
    assert all((r["score"] >= upper) == (r["state"] == "accepted") for r in rows if r["stage"] == 1)


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_simulated_cascade_is_the_deployed_one_patch_by_patch(stages, dense, first, second):
    lower, upper = (float(np.quantile(dense.answers.scores[0], q)) for q in sorted((first, second)))
    thresholds = StageThresholds(lower=[lower], upper=[upper])
    table = deployed(stages, thresholds).table
    simulated = run_stages(dense.stages, dense.answers, thresholds)[-1]
    assert table["state"].to_pylist() == [STATES[state] for state in simulated.state]
    np.testing.assert_array_equal(table["score"].to_numpy(), simulated.score)
    np.testing.assert_array_equal(table["stage"].to_numpy(), simulated.decided_by + 1)


def test_what_each_stage_computed_and_took_is_recorded(stages):
    record = deployed(stages, OPEN).record
    assert [cost.mpp for cost in record.stages] == [4.0, 1.0]
    assert [cost.computed for cost in record.stages] == [cost.patches for cost in record.stages]
    assert 0 < sum(cost.seconds for cost in record.stages) <= record.seconds
    assert record.saved == pytest.approx(-record.stages[0].patches / record.stages[1].patches)


def test_patches_without_a_coarse_patch_around_them_are_computed(stages, tmp_path):
    table = pq.read_table(stages[0].entry.table)
    excluded = table.set_column(
        table.column_names.index("excluded"), "excluded", [["white"] * table.num_rows]
    ).replace_schema_metadata(table.schema.metadata)
    pq.write_table(excluded, tmp_path / "none.parquet")
    coarse = replace(stages[0], entry=replace(stages[0].entry, table=tmp_path / "none.parquet"))
    found = deployed([coarse, stages[1]], StageThresholds(lower=[1.0], upper=[1.0]))
    assert set(found.table["state"].to_pylist()) == {"computed"}


def test_a_slide_in_quarantine_has_a_quarantine_entry(stages, tmp_path):
    table = pq.read_table(stages[0].entry.table).slice(0, 0)
    path = tmp_path / "lost.parquet"
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: sample_records.lost().encode(path)}), path)
    lost = [replace(stage, entry=replace(stage.entry, table=path)) for stage in stages]
    assert deployed(lost, OPEN) == sample_records.lost()


def test_an_unknown_class_is_refused(stages):
    with pytest.raises(ConfigError, match="not tumour"):
        predict_cascade(stages, "tumour", OPEN, threads=1)


def test_colours_of_deciding_stages_mean_the_same_on_all_slides():
    tasks = ["coarse", "middle", "fine"]
    table = pa.table({"stage": np.array([2, 3, 1], np.uint8), "state": ["rejected", "computed", "accepted"]})
    names, number = deciders(table, tasks)
    assert [names[n] for n in number] == ["middle, rejected", "fine, computed", "coarse, accepted"]
    assert deciders(table.slice(0, 0), tasks)[0] == names


def test_the_picture_of_a_slide_shows_scores_and_deciding_stages_beside_each_other(stages):
    found = deployed(stages, OPEN)
    with open_slide(stages[1].entry.manifest) as reader:
        picture = stage_maps(reader, found, TARGET, ["coarse", "fine"])
    assert picture.dtype == np.uint8
    assert picture.shape[1] > 1.9 * 512
    in_legend = np.abs(picture.astype(int) - canvas.PALETTE[2]).sum(2) < 3
    assert in_legend.any()


# --- search -----------------------------------------------------------------------------------------------------------


def searching(**search):
    return Cascade(class_name=TARGET, stages=["coarse", "fine"], search=ThresholdChoice(**search))


def slide_of(dense, coarse, fine):
    """The slide with other scores."""
    scores = StoredScores([np.asarray(coarse, np.float32), np.asarray(fine, np.float32)])
    return replace(dense, answers=scores)


def ideal(dense, *, below=0.1, above=0.9):
    """Scores of a coarse stage that knows which coarse patches contain a positive, and a fine stage without errors."""
    parent, positive = dense.stages[1].parent, dense.positive
    mixed = {p: positive[parent == p].any() for p in range(len(dense.stages[0]))}
    coarse = [above if mixed[p] else below for p in range(len(mixed))]
    return slide_of(dense, coarse, np.where(positive, 0.99, 0.01))


def test_the_cheapest_thresholds_without_loss_are_found(dense):
    slide = ideal(dense)
    result = find_stage_thresholds([slide], searching(max_loss=0.0, joint=20), seed=0)
    assert (result.dense.f, result.chosen.f, result.rule) == (1.0, 1.0, "max_loss")
    # At best every coarse patch is read, and the fine ones below coarse patches that contain a positive one.
    inside = slide.answers.scores[0][slide.stages[1].parent] > 0.5
    orphans = slide.stages[1].parent < 0
    best = (len(slide.stages[0]) + (inside | orphans).sum()) / len(slide.stages[1])
    assert result.chosen.cost <= best + 1e-9


def test_min_saving_has_priority_over_max_loss(dense):
    slide = slide_of(dense, np.linspace(0, 1, len(dense.stages[0])), np.where(dense.positive, 0.99, 0.01))
    result = find_stage_thresholds([slide], searching(max_loss=0.0, min_saving=0.9, joint=20), seed=0)
    assert result.rule == "min_saving"
    assert 1 - result.chosen.cost >= 0.9


def test_a_cascade_that_saves_nothing_is_replaced_by_the_finest_stage(dense):
    slide = slide_of(dense, np.full(len(dense.stages[0]), 0.5), np.where(dense.positive, 0.99, 0.01))
    result = find_stage_thresholds([slide], searching(max_loss=0.0, joint=5), seed=0)
    assert (result.rule, result.chosen.thresholds.lower, result.chosen.cost) == ("dense", [], 1.0)
    record = thresholds_record(result, searching(), slides=["s2"], left_out=[])
    assert "no thresholds within" in record.remark


def test_typed_thresholds_are_scored_and_not_searched(dense):
    typed = Cascade(class_name=TARGET, stages=["coarse", "fine"], thresholds={"lower": [0.5], "upper": [1.0]})
    result = find_stage_thresholds([ideal(dense)], typed, seed=0)
    assert (result.rule, result.chosen.thresholds, len(result.trials)) == ("given", typed.thresholds, 1)


@given(st.integers(0, 1000))
def test_every_trial_of_a_search_is_what_the_deployed_cascade_gives_with_its_thresholds(dense, seed):
    rng = np.random.default_rng(seed)
    slide = slide_of(dense, rng.random(len(dense.stages[0])), rng.random(len(dense.stages[1])))
    result = find_stage_thresholds([slide], searching(max_loss=0.1, candidates=4, joint=5), seed=seed)
    for trial in result.trials:
        assert all(low <= high for low, high in zip(trial.thresholds.lower, trial.thresholds.upper, strict=True))
        computed = [done.computed for done in run_stages(slide.stages, slide.answers, trial.thresholds)]
        assert trial.cost == pytest.approx(sum(computed) / len(slide.stages[1]))


def test_validation_slides_without_a_patch_of_the_class_are_refused(dense):
    none = replace(dense, positive=np.zeros_like(dense.positive))
    with pytest.raises(HistomakeError, match=r"no finest patch of known truth with the class .* s2"):
        find_stage_thresholds([none], searching(), seed=0)


def test_three_stages_decide_one_after_the_other():
    stages = [_stage(1), _stage(2, [0, 0]), _stage(4, [0, 0, 1, 1])]
    answers = StoredScores([np.array(s, np.float32) for s in ([0.5], [0.05, 0.6], [0.1, 0.2, 0.3, 0.4])])
    found = run_stages(stages, answers, StageThresholds(lower=[0.2, 0.1], upper=[0.9, 0.9]))
    assert [done.computed for done in found] == [1, 2, 2]
    assert found[-1].state.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(found[-1].score, [0.05, 0.05, 0.3, 0.4])
    assert found[-1].decided_by.tolist() == [1, 1, 2, 2]


class _Patches(list):
    """As many patches of one pixel."""

    mpp, size = 1.0, 1


def _stage(count, parent=()):
    from histomake.cascade.patch_cascade import StagePatches

    return StagePatches(_Patches(range(count)), np.array(parent or [-1] * count))
