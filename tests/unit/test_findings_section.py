"""The first section of the report: what tasks reached, their worst slides, and the slides they lost."""

from __future__ import annotations

import re

import duckdb
import pytest
from histomake.base.layout import Layout
from histomake.base.records.metrics import LevelMetrics
from histomake.config import parse_config
from histomake.report.findings_section import WORST, findings_section, lost_slides, worst_slides

from tests import sample_records

HEAD = "slide_id,patient_id,fold,class,items,positives,accuracy,accuracy_se\n"


@pytest.fixture
def layout(tmp_path):
    (tmp_path / "metrics").mkdir()
    return Layout(tmp_path)


@pytest.fixture
def catalog():
    with duckdb.connect() as found:
        found.execute("CREATE TABLE quarantine (slide_id VARCHAR, task VARCHAR)")
        found.execute("CREATE TABLE splits (task VARCHAR, fold SMALLINT, slide_id VARCHAR, role VARCHAR)")
        yield found


def test_slides_of_patches_are_named_by_their_lowest_accuracy(layout, catalog):
    rows = ["a,P,0,x,9,1,0.9,", "a,P,0,y,9,1,0.5,", "b,P,0,x,9,1,1,", "c,P,0,x,9,1,0.7,", "d,P,0,x,0,,,"]
    layout.slide_metrics("t").write_text(HEAD + "\n".join(rows))
    assert worst_slides("t", layout, catalog) == [("a", "0.500"), ("c", "0.700")]


def test_at_most_a_few_slides_are_named(layout, catalog):
    layout.slide_metrics("t").write_text(HEAD + "\n".join(f"s{i},P,0,x,9,1,0.{i}," for i in range(1, 9)))
    assert [slide for slide, _ in worst_slides("t", layout, catalog)] == ["s1", "s2", "s3"][:WORST]


def test_slides_called_otherwise_are_named_with_the_score_of_their_label(layout, catalog):
    layout.slide_metrics("t").write_text(HEAD)
    catalog.execute(
        "CREATE TABLE bags_t AS FROM (VALUES (0, 'a', .4, .6, 'yes', 'no'), (0, 'b', .1, .9, 'yes', 'no'), "
        "(0, 'c', .2, .8, 'yes', 'yes'), (0, 'd', .2, .8, 'yes', NULL), (0, 'learned', .0, 1.0, 'yes', 'no')) "
        "AS v(fold, slide_id, score_no, score_yes, predicted, label)"
    )
    roles = [("a", "test"), ("b", "test"), ("c", "test"), ("d", "test"), ("learned", "train")]
    catalog.executemany("INSERT INTO splits VALUES ('t', 0, ?, ?)", roles)
    assert worst_slides("t", layout, catalog) == [("b", "no, called yes; 0.10"), ("a", "no, called yes; 0.40")]


def test_a_task_without_classes_names_no_slide(layout, catalog):
    catalog.execute("CREATE TABLE bags_t (fold SMALLINT, slide_id VARCHAR, score_age FLOAT)")
    assert worst_slides("t", layout, catalog) == []


def test_lost_slides_are_those_in_quarantine_and_those_that_the_task_itself_found_damaged(catalog):
    catalog.executemany(
        "INSERT INTO splits VALUES (?, 0, ?, ?)", [("t", "a", "test"), ("t", "b", "train"), ("u", "a", "val")]
    )
    catalog.executemany("INSERT INTO splits VALUES ('t', 1, ?, ?)", [("a", "test"), ("b", "train")])
    catalog.executemany("INSERT INTO quarantine VALUES (?, ?)", [("a", None), ("b", "t"), ("c", None)])
    assert lost_slides("t", catalog) == "1 test, 1 train"
    assert lost_slides("u", catalog) == "1 val"
    assert lost_slides("other", catalog) == "none"


def test_the_section_has_the_headline_of_each_task_and_warns_of_few_patients(layout, catalog):
    auroc = {"all": {"auroc": sample_records.metric(0.912, 0.85, 0.97)}}
    level = LevelMetrics(count=12, patients=3, metrics=auroc)
    sample_records.metrics({"patient": level}).write(layout.metrics("t"))
    target = {"source": "annotation", "classes": ["a", "b"]}
    task = {"kind": "classification", "grid": "x20", "target": target}
    config = parse_config(
        {"sheet": "s.tsv", "annotations": {"classes": {"a": "a", "b": "b"}}, "tasks": {"t": task, "u": task}}
    )
    cells = re.findall(r"<td[^>]*>(.*?)</td>", findings_section(config, layout, catalog, set()), re.DOTALL)
    assert cells[1:3] == ["patient AUROC 0.912 (0.85–0.97)", "3: unreliable"]
    assert cells[6:8] == ["no test slides", "–"]


def test_a_run_without_tasks_has_no_findings(layout, catalog):
    assert findings_section(parse_config({"sheet": "s.tsv"}), layout, catalog, set()) == ""
