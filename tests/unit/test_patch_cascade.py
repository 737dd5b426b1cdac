"""Tests of a cascade over patches: effect of open and closed thresholds, and inherited decisions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from histomake.base.errors import ConfigError
from histomake.base.layout import Layout
from histomake.cascade.patch_cascade import Stage, cascade_patches
from histomake.config import Grid, Task
from histomake.learn.inference.predict import load_model, predict_slide
from histomake.learn.train import train
from histomake.patch.table import METADATA_KEY
from small_cohort import CLASSES, GRID_NAME, MPP, build_slide

from tests import sample_records

SIZES = {"coarse": (32, 4.0), "fine": (32, 1.0)}


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
        made.append(Stage(load_model(root / "model"), entries[2], lower=0.0, upper=1.1))
    return made


def run(stages, **thresholds):
    return cascade_patches([replace(stages[0], **thresholds), stages[1]], "speckled", batch=8, threads=1)


def test_open_thresholds_give_the_predictions_of_the_finest_stage(stages):
    table, record = run(stages)
    alone = predict_slide(stages[1].predictor, stages[1].entry, batch=8, threads=1)
    assert table["patch_id"].to_pylist() == alone["patch_id"].to_pylist()
    np.testing.assert_allclose(table["score"].to_numpy(), alone["score_speckled"].to_numpy(), atol=1e-5)
    assert set(table["state"].to_pylist()) == {"computed"}
    assert record.stages[1].computed == len(table)


def test_closed_thresholds_leave_every_patch_to_the_coarsest_stage_that_contains_it(stages):
    table, record = run(stages, lower=1.0)
    coarse = predict_slide(stages[0].predictor, stages[0].entry, batch=8, threads=1)
    by_cell = {(r["x"] // 128, r["y"] // 128): r["score_speckled"] for r in coarse.to_pylist()}
    for row in table.to_pylist():
        if row["stage"] == 1:
            assert row["score"] == pytest.approx(by_cell[(row["x"] // 128, row["y"] // 128)])
            assert row["state"] == "rejected"
    assert record.stages[1].computed == sum(s == 2 for s in table["stage"].to_pylist())
    assert record.saved > 0.5


def test_intermediate_thresholds_split_the_patches_by_the_coarse_score(stages):
    scores = predict_slide(stages[0].predictor, stages[0].entry, batch=8, threads=1)["score_speckled"].to_numpy()
    lower, upper = (float(np.quantile(scores, q)) for q in (0.3, 0.7))
    rows = run(stages, lower=lower, upper=upper)[0].to_pylist()
    decided = [r for r in rows if r["stage"] == 1]
    assert {r["state"] for r in rows} == {"rejected", "computed", "accepted"}
    assert all((r["score"] >= upper) == (r["state"] == "accepted") for r in decided)


def test_a_slide_in_quarantine_has_a_quarantine_entry_and_no_patches(stages, tmp_path):
    table = pq.read_table(stages[0].entry.table).slice(0, 0)
    path = tmp_path / "lost.parquet"
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: sample_records.lost().encode(path)}), path)
    lost = [replace(stage, entry=replace(stage.entry, table=path)) for stage in stages]
    predictions, record = run(lost)
    assert predictions.num_rows == 0
    assert record == sample_records.lost()


def test_an_unknown_class_and_stages_that_are_not_finer_are_refused(stages):
    with pytest.raises(ConfigError, match="not tumour"):
        cascade_patches(stages, "tumour", batch=8, threads=1)
    with pytest.raises(ConfigError, match="must be finer"):
        cascade_patches(stages[::-1], "speckled", batch=8, threads=1)
