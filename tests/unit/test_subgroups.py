"""Metrics of subgroups of the test set: equal to those of each group alone, and a test of heterogeneity."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from histomake.base.errors import ConfigError
from histomake.base.kinds import Kind
from histomake.base.records.metrics import MetricsRecord, MetricValue, Subgroup
from histomake.catalog.build import build_catalog
from histomake.cohort.sheet import read_sheet
from histomake.config import Target, parse_config
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.items import SlidePrediction
from histomake.evaluate.subgroups import heterogeneity
from histomake.planning.plan import make_plan
from histomake.report.statistics_section import statistics_sections
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

TARGET = Target(source="sheet", column="grade", classes=["low", "high"])
NAMES = "ABCDEFGH"


def group(value: float | None, se: float | None, *, patients: int = 20, samples: int = 1000) -> Subgroup:
    found = MetricValue(value=value, low=None, high=None, se=se, samples=samples)
    return Subgroup(count=patients, patients=patients, metrics={"auroc": found})


def compared(*groups: Subgroup, shared: bool = False, names: str = NAMES):
    named = dict(zip(names, groups, strict=False))
    own = {name: {f"{'' if shared else name}{i}" for i in range(one.patients)} for name, one in named.items()}
    return heterogeneity(named, "auroc", patients=own, bootstraps=1000)


@pytest.mark.parametrize(
    ("groups", "q", "p", "beyond"),
    [
        # Weights 400 and 400, mean 0.7: Q = 2 * 400 * 0.1**2.
        ([(0.8, 0.05), (0.6, 0.05)], 8.0, 0.004678, 7 / 8),
        # Weights 100, 100 and 25, mean 157.5 / 225 = 0.7. With two degrees of freedom, p = exp(-Q / 2).
        ([(0.8, 0.1), (0.6, 0.1), (0.7, 0.2)], 2.0, np.exp(-1), 0.0),
        ([(0.7, 0.1), (0.7, 0.3)], 0.0, 1.0, 0.0),
    ],
)
def test_cochrans_q_is_that_computed_by_hand(groups, q, p, beyond):
    found = compared(*(group(*one) for one in groups))
    assert found.q == pytest.approx(q, abs=1e-9)
    assert found.p == pytest.approx(p, rel=1e-3)
    assert found.i_squared == pytest.approx(beyond, abs=1e-9)
    assert (found.degrees, found.undefined) == (len(groups) - 1, None)


GROUPS = st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 0.5)), min_size=2, max_size=8)


@given(GROUPS, st.randoms(use_true_random=False))
def test_the_test_does_not_depend_on_the_order_or_the_origin_of_the_values(groups, random):
    other = [(value + 3, se) for value, se in groups]
    random.shuffle(other)
    first, second = (compared(*(group(*one) for one in some)) for some in (groups, other))
    assert second.q == pytest.approx(first.q, rel=1e-6, abs=1e-6)
    assert 0 <= first.i_squared < 1
    assert first.p == pytest.approx(chi2.sf(first.q, len(groups) - 1))


def test_equal_groups_are_called_different_as_often_as_the_level_of_the_test_says():
    rng = np.random.default_rng(0)
    found = [compared(*(group(rng.normal(0.8, se), se) for se in (0.05, 0.1, 0.02))).p for _ in range(2000)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.015)


def test_a_group_of_few_patients_is_not_compared_and_the_others_are():
    found = compared(group(0.8, 0.05), group(0.1, 0.01, patients=9), group(0.6, 0.05))
    assert (found.compared, found.q) == (["A", "C"], pytest.approx(8.0))
    assert found.left_out == {"B": "9 patients, fewer than 10"}


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (group(None, None, samples=0), "only one class occurs"),
        (group(0.6, 0.05, samples=899), "in 899 of 1000 bootstrap samples only"),
    ],
)
def test_a_group_whose_metric_is_not_or_seldom_defined_is_not_compared(other, reason):
    found = compared(group(0.8, 0.05), other)
    assert reason in found.left_out["B"]
    assert (found.p, found.undefined) == (None, "fewer than two groups can be compared")


def test_a_group_without_any_error_makes_the_test_undefined_and_is_not_just_left_out():
    found = compared(group(0.6, 0.05), group(1.0, 0.0), group(0.6, 0.05))
    assert found.undefined == "the standard error is zero in B, whose weight would be infinite"
    assert (found.q, found.p, found.i_squared) == (None, None, None)


def test_patients_in_several_groups_are_not_independent():
    assert "not independent" in compared(group(0.8, 0.05), group(0.6, 0.05), shared=True).undefined


def slides(count: int, *, seed: int, signal: float, labels: tuple[str, ...] = ("low", "high")) -> list[SlidePrediction]:
    """One slide of one patch per patient; the higher ``signal``, the more scores tell the classes apart."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        name = labels[i % len(labels)]
        score = 1 / (1 + np.exp(-rng.normal(signal if name == "high" else -signal)))
        columns = {"score_low": [1 - score], "score_high": [score], "tissue": [1.0]}
        columns["label"] = pa.array([name], pa.string()).dictionary_encode()
        told = {"threshold": 0.5, "slide_thresholds": {"mean": 0.5}, "labels": {"grade": name}}
        found.append(SlidePrediction(f"s{seed}_{i}", f"p{seed}_{i}", 0, pa.table(columns), **told))
    return found


def measured(predictions: list[SlidePrediction], **told) -> MetricsRecord:
    common = {"kind": Kind.CLASSIFICATION, "target": TARGET, "aggregate": "mean", "seed": 0, "bootstraps": 200}
    return evaluate(predictions, **common | told).record


def test_metrics_of_a_group_are_those_of_its_slides_alone():
    north, south = slides(30, seed=1, signal=2.0), slides(40, seed=2, signal=0.0)
    record = measured([*north, *south], subgroups={"site": ["north"] * 30 + ["south"] * 40})
    for level in ("patch", "slide", "patient"):
        groups = record.levels[level].subgroups["site"].groups
        for name, own in (("north", north), ("south", south)):
            alone = measured(own).levels[level]
            assert groups[name].metrics == alone.metrics["all"]
            assert (groups[name].count, groups[name].patients) == (alone.count, alone.patients)


def test_groups_that_differ_are_found_and_equal_ones_are_not():
    values = ["x"] * 60 + ["y"] * 60
    differ = measured([*slides(60, seed=1, signal=1.2), *slides(60, seed=2, signal=0.0)], subgroups={"c": values})
    equal = measured([*slides(60, seed=3, signal=0.7), *slides(60, seed=4, signal=0.7)], subgroups={"c": values})
    assert differ.levels["patient"].subgroups["c"].tests["auroc"].p < 0.001
    assert equal.levels["patient"].subgroups["c"].tests["auroc"].p > 0.05


def test_slides_without_a_value_have_metrics_of_their_own_and_are_not_compared():
    values = ["x"] * 20 + [""] * 20 + ["y"] * 20
    record = measured([s for seed in (1, 2, 3) for s in slides(20, seed=seed, signal=0.7)], subgroups={"c": values})
    table = record.levels["patient"].subgroups["c"]
    assert {name: one.count for name, one in table.groups.items()} == {"x": 20, "y": 20, "": 20}
    assert list(table.groups)[-1] == ""
    assert table.tests["auroc"].compared == ["x", "y"]
    assert table.tests["auroc"].left_out == {"": "the cell of the sheet is empty"}


def test_a_group_of_one_class_has_the_metrics_that_are_defined():
    record = measured(
        [*slides(20, seed=1, signal=0.7), *slides(20, seed=2, signal=0.7, labels=("high",))],
        subgroups={"c": ["x"] * 20 + ["y"] * 20},
    )
    table = record.levels["patient"].subgroups["c"]
    assert table.groups["y"].metrics["auroc"].value is None
    assert table.groups["y"].metrics["sensitivity"].value is not None
    assert list(table.tests["auroc"].left_out) == ["y"]


def test_a_group_without_a_known_truth_has_no_item():
    unknown = [SlidePrediction(p.slide_id, p.patient_id, 0, p.table.slice(0, 0)) for p in slides(5, seed=2, signal=1)]
    record = measured([*slides(20, seed=1, signal=0.7), *unknown], subgroups={"c": ["x"] * 20 + ["y"] * 5})
    found = record.levels["patient"].subgroups["c"].groups["y"]
    assert (found.count, found.patients, found.metrics) == (0, 0, {})


def test_a_patient_with_slides_of_two_groups_is_in_both_and_there_is_no_test():
    predictions = slides(40, seed=1, signal=0.7)
    pairs = [SlidePrediction(p.slide_id, f"p{i // 2}", 0, p.table, labels=p.labels) for i, p in enumerate(predictions)]
    record = measured(pairs, subgroups={"stain": ["x", "y"] * 20}, patient_truth="any")
    table = record.levels["patient"].subgroups["stain"]
    assert [one.patients for one in table.groups.values()] == [20, 20]
    assert "not independent" in table.tests["accuracy"].undefined


def test_the_record_is_read_as_it_was_written_and_report_and_catalog_have_it(tmp_path):
    values = ["north"] * 30 + ["<south>"] * 30 + [""] * 4
    everyone = [s for seed, n in ((1, 30), (2, 30), (3, 4)) for s in slides(n, seed=seed, signal=0.7)]
    record = measured(everyone, subgroups={"site": values})
    record.write(tmp_path / "m.json")
    assert MetricsRecord.read(tmp_path / "m.json") == record
    (section,) = statistics_sections("t", record)
    for text in ("Patients by site", "&lt;south&gt;", "(empty) is not compared", "heterogeneity", "I²"):
        assert text in section, text
    nothing = {"manifests": [], "tissue": [], "quality": [], "annotations": [], "splits": {}, "predictions": {}}
    build_catalog(tmp_path / "c.duckdb", **nothing, tables={}, metrics={"grade": tmp_path / "m.json"})
    with duckdb.connect(tmp_path / "c.duckdb", read_only=True) as base:
        where = "WHERE task = 'grade' AND level = 'patient' AND sheet_column = 'site' AND metric = 'auroc'"
        rows = base.execute(f"SELECT subgroup, items, patients, value FROM subgroups {where} ORDER BY 1").fetchall()
        (test,) = base.execute(f"SELECT degrees, p FROM subgroup_tests {where}").fetchall()
        of_all = "WHERE level = 'patient' AND class = 'all' AND metric = 'mcc'"
        ((mcc,),) = base.execute(f"SELECT value FROM metrics {of_all}").fetchall()
    table = record.levels["patient"].subgroups["site"]
    assert [row[:3] for row in rows] == [("", 4, 4), ("<south>", 30, 30), ("north", 30, 30)]
    assert rows[2][3] == table.groups["north"].metrics["auroc"].value
    assert test == (1, table.tests["auroc"].p)
    assert mcc == record.levels["patient"].metrics["all"]["mcc"].value


CONFIG = {
    "annotations": {"classes": {"a": "a", "b": "b"}},
    "grids": {"x10": {"mpp": 1.0}},
    "tasks": {"t": {"grid": "x10", "target": {"classes": ["a", "b"]}, "evaluate": {"subgroups": ["sex", "site"]}}},
}


def sheet(tmp_path, *rows: str):
    path = tmp_path / "slides.tsv"
    path.write_text("\n".join(rows).replace(" ", "\t") + "\n")
    return path


def test_a_column_of_subgroups_that_the_sheet_lacks_is_refused_before_any_job(tmp_path):
    path = sheet(tmp_path, "slide_id path patient_id site", "a a.svs p north")
    with pytest.raises(ConfigError, match="column 'sex' is missing, but is used by a task, its split or its subgroups"):
        read_sheet(path, parse_config(CONFIG), check_files=False)
    only_predicted = sheet(tmp_path, "slide_id path patient_id split", "a a.svs p predict")
    assert read_sheet(only_predicted, parse_config(CONFIG), check_files=False)["a"].value("sex") is None


def test_values_that_differ_in_spelling_or_are_no_groups_are_refused(tmp_path):
    many = [f"s{i} s{i}.svs p{i} value{i} north" for i in range(101)]
    path = sheet(tmp_path, "slide_id path patient_id sex site", "a a.svs p Male north", "b b.svs q male north", *many)
    with pytest.raises(ConfigError) as caught:
        read_sheet(path, parse_config(CONFIG), check_files=False)
    assert "column 'sex': values differ only in case, spaces or Unicode form: 'Male', 'male'" in str(caught.value)
    assert "has 103 values, more than 100" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [(["sex", "sex"], "subgroups: a column is listed twice"), (["split"], "'split' has a meaning of its own")],
)
def test_columns_without_a_meaning_as_subgroups_are_refused(tmp_path, columns, message):
    task = CONFIG["tasks"]["t"] | {"evaluate": {"subgroups": columns}}
    with pytest.raises(ConfigError, match=message):
        path = sheet(tmp_path, "slide_id path patient_id split", "a a.svs p test")
        read_sheet(path, parse_config(CONFIG | {"tasks": {"t": task}}), check_files=False)


def test_values_are_params_of_the_evaluation_alone(tmp_path):
    rows = [f"{name} {name}.svs p{name} {sex} north {split}" for name, sex, split in SLIDES]
    config = parse_config(CONFIG)
    found = read_sheet(sheet(tmp_path, "slide_id path patient_id sex site split", *rows), config, check_files=False)
    plan = make_plan(config, found)
    assert plan.subgroups("t") == {"sex": ["", "f"], "site": ["north", "north"]}
    assert plan.entries("t", "test") == [["c", "pc", {}], ["d", "pd", {}]]


SLIDES = [("a", "f", "train"), ("b", "m", "val"), ("c", "", "test"), ("d", "f", "test"), ("e", "m", "predict")]
