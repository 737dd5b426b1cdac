"""Report section of bags of chosen patches: seconds by step, break-even, loss, and a warning if they are slower."""

from __future__ import annotations

import duckdb
import pytest
from histomake.base.layout import Layout
from histomake.base.records.comparison import ComparisonRecord
from histomake.base.records.metrics import ComparedLevel, MetricDifference, MetricValue
from histomake.config import parse_config
from histomake.report.adaptive_bags import (
    BagCost,
    adaptive_bags_section,
    bag_cost,
    compared_bags,
    lost_by,
)

ENCODER = {"grid": "high", "name": "resnet10t", "weights": False}
TARGET = {"source": "sheet", "column": "grade", "classes": ["low", "high"]}


def bag(features, grid="high"):
    return {"kind": "classification", "level": "slide", "grid": grid, "features": features, "target": TARGET}


def config(*compare):
    return parse_config(
        {
            "grids": {"low": {"mpp": 8.0}, "high": {"mpp": 1.0}},
            "encoders": {
                "cheap": ENCODER | {"grid": "low"},
                "few": ENCODER | {"choose": {"task": "coarse", "budget": 0.1}},
                "all": ENCODER,
            },
            "tasks": {"coarse": bag("cheap", "low"), "adaptive": bag("few"), "dense": bag("all")},
            "compare": list(compare),
        }
    )


CONFIG = config(("dense", "adaptive"))


def runs(seconds):
    return [(seconds, 0.0, 0.0)]


JOBS = {
    ("tabulate_patches", "low", "a"): runs(1.0),
    ("tabulate_patches", "high", "a"): runs(50.0),  # both tasks need it
    ("features", "cheap", "a"): runs(2.0),
    ("features", "cheap", "b"): runs(4.0),
    ("predict_bag", "coarse", "fold0", "a"): runs(2.0),
    ("features", "few", "a"): [*runs(99.0), *runs(3.0)],  # the last run counts
    ("predict_bag", "adaptive", "fold0", "a"): runs(1.0),
    ("features", "all", "a"): runs(40.0),
    ("predict_bag", "dense", "fold0", "a"): runs(2.0),
}


@pytest.fixture
def catalog():
    """Two slides of 100 usable patches, of which the adaptive task has 10."""
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE patches_high_kept AS SELECT 'ab'[1 + i % 2] AS slide_id FROM range(200) t(i)")
        for name, patches in (("adaptive", 10), ("dense", 100)):
            connection.execute(
                f"CREATE TABLE bags_{name} AS FROM (VALUES ('a', {patches}), ('b', {patches})) t(slide_id, patches)"
            )
        yield connection


def test_choosing_is_the_coarse_table_features_and_prediction_and_a_step_the_mean_over_slides(catalog):
    cost = bag_cost("adaptive", CONFIG, catalog, JOBS)
    assert cost == BagCost("adaptive", choosing=1 + 3 + 2, encoding=3, predicting=1, usable=100, seen=0.1)
    assert bag_cost("dense", CONFIG, catalog, JOBS) == BagCost("dense", 0, 40, 2, 100, 1.0)


def test_a_task_without_the_times_of_its_jobs_has_no_cost(catalog):
    without = {key: run for key, run in JOBS.items() if key[:2] != ("features", "cheap")}
    assert bag_cost("adaptive", CONFIG, catalog, without) is None


def test_choosing_pays_from_the_patches_whose_encoding_it_saves():
    dense = BagCost("dense", choosing=0, encoding=40, predicting=2, usable=100, seen=1.0)
    # 0.4 s a patch, of which 90 % are saved: 5 s more at the start are saved by 13.9 patches.
    assert BagCost("few", 6, 3, 1, 100, 0.1).break_even(dense) == pytest.approx(5 / 0.36)
    assert BagCost("all", 6, 40, 1, 100, 1.0).break_even(dense) is None


def test_tasks_are_paired_by_compare_in_either_order():
    assert compared_bags(config(("adaptive", "dense"))) == {"dense": ["adaptive"]}
    assert compared_bags(config()) == {}


def write_comparison(layout, first, second, values):
    gap = MetricValue(value=values[0] - values[1], low=-0.25, high=0.5, se=0.1, samples=9)
    compared = MetricDifference(first=values[0], second=values[1], difference=gap, p_bootstrap=None)
    common = {"kind": "classification", "seed": 0, "bootstraps": 9, "interval_percent": (2.5, 97.5)}
    level = ComparedLevel(count=2, metrics={"all": {"auroc": compared}})
    record = ComparisonRecord(
        first=first, second=second, slides=2, patients=2, left_out=[], levels={"patient": level}, **common
    )
    layout.comparison(first, second).parent.mkdir(parents=True)
    record.write(layout.comparison(first, second))


@pytest.mark.parametrize(
    ("pair", "ends"), [(("dense", "adaptive"), (-0.25, 0.5)), (("adaptive", "dense"), (-0.5, 0.25))]
)
def test_lost_is_what_the_task_on_all_patches_reaches_more(pair, ends, tmp_path):
    reached = {"dense": 0.75, "adaptive": 0.5}
    write_comparison(Layout(tmp_path), *pair, [reached[name] for name in pair])
    lost = lost_by("adaptive", "dense", config(pair), Layout(tmp_path))
    assert (lost.metric, lost.dense, lost.chosen, lost.value, lost.low, lost.high) == ("AUROC", 0.75, 0.5, 0.25, *ends)


def test_a_warning_names_a_task_on_chosen_patches_that_takes_longer(catalog, tmp_path):
    layout = Layout(tmp_path)
    write_comparison(layout, "dense", "adaptive", [0.75, 0.5])
    section = adaptive_bags_section(CONFIG, layout, catalog, JOBS)
    assert "23.8%" in section  # 10 of 42 s
    assert "14 patches" in section
    assert "+0.250 (-0.250 to +0.500)" in section
    assert 'class="warn"' not in section
    slow = JOBS | {("predict_bag", "coarse", "fold0", "a"): runs(60.0)}
    assert "adaptive takes 68.0 s a slide, dense, on all patches, 42.0 s." in adaptive_bags_section(
        CONFIG, layout, catalog, slow
    )


def test_without_compared_bags_there_is_no_section(catalog, tmp_path):
    assert adaptive_bags_section(config(), Layout(tmp_path), catalog, JOBS) == ""
