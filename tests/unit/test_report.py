"""The report and the page of a slide: their content for each kind of task, for cascades, and for lost slides."""

from __future__ import annotations

import base64
import dataclasses
import re
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from histomake.base.layout import Layout
from histomake.base.records.cascade_metrics import Bar, CascadeMetrics, CascadeSeconds, NucleusScores
from histomake.base.records.cascade_thresholds import Parting, ScoredNeck, ThresholdsRecord
from histomake.base.records.cell_table import CellTableRecord
from histomake.base.records.metrics import LevelMetrics
from histomake.base.records.record import Quarantined
from histomake.cells.table import MEASURED, METADATA_KEY, empty_table, schema, write_cells
from histomake.config import Cells, Config, Task
from histomake.explain.rankings import right_and_wrong
from histomake.report import cascades_section, front_page, page, task_section
from histomake.report.cells_section import cells_section
from histomake.report.jobs import GPU_RULES
from histomake.report.metric_texts import levels_in_order, with_interval
from histomake.report.metrics_section import headline
from histomake.report.slide_page import SlideRecords, SlideTask, slide_page
from msgspec.structs import replace
from PIL import Image

from tests import sample_records
from tests.browser import Browser

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "rules"
DICTIONARY = pa.dictionary(pa.int32(), pa.string())
RECORDS = SlideRecords(
    sample_records.manifest(width=4000, height=3000, bytes_in=5_000_000),
    sample_records.no_annotation(),
    sample_records.tissue(area_mm2=2.5, coverage=0.4),
    sample_records.quality(shares={"pen": 0.0, "blur": 0.25, "fold": 0.0}),
    sample_records.patch_table(),
)


def task(folder: Path, columns: dict[str, list], *, kind: str, classes: list[str]) -> SlideTask:
    """A task that predicted patches with the given columns."""
    named = {
        k: pa.array(v, pa.string()).cast(DICTIONARY) if k == "predicted" else pa.array(v) for k, v in columns.items()
    }
    count = len(next(iter(columns.values())))
    path = folder / f"{kind}.parquet"
    pq.write_table(pa.table(named | {"tissue": pa.array(np.ones(count, np.float32))}), path)
    model = sample_records.model_card(kind, class_names=classes)
    return SlideTask("t", 0, model, "mean", path, views={}, regions={})


@pytest.fixture
def page_of(tmp_path):
    """Makes the page of a slide: page_of(*tasks, records=…, cascades=…)."""
    Image.new("RGB", (40, 30)).save(tmp_path / "tissue.jpg")

    def make(
        *tasks: SlideTask,
        records: SlideRecords | Quarantined = RECORDS,
        cascades: dict[str, Path] | None = None,
        stages: dict[tuple[str, int], Path] | None = None,
        cells=None,
        graphs=None,
    ) -> str:
        return slide_page(
            slide_id="S-1.a",
            patient_id="P<1>",
            site="",
            records=records,
            tissue=tmp_path / "tissue.jpg",
            tasks=list(tasks),
            cascades=cascades or {},
            stages=stages or {},
            cells=cells or {},
            graphs=graphs or {},
        )

    return make


def cells(page: str) -> list[str]:
    """The texts of all table cells."""
    return [part.split(">", 1)[1].split("</td>")[0] for part in page.split("<td")[1:]]


def test_a_slide_page_counts_a_patch_of_two_classes_for_both(tmp_path, page_of):
    columns = {"score_a": [0.9, 0.2], "score_b": [0.8, 0.1], "predicted": ["a+b", ""]}
    page = page_of(task(tmp_path, columns, kind="multi_label", classes=["a", "b"]))
    assert cells(page)[-8:] == ["a", "1", "0.5", "0.55", "b", "1", "0.5", "0.45"]
    assert "P&lt;1&gt;" in page


def test_a_slide_page_of_a_regression_shows_its_value_and_its_error(tmp_path, page_of):
    columns = {"score_age": [50.0, 60.0], "target_age": [52.0, None], "predicted": [None, None]}
    page = page_of(task(tmp_path, columns, kind="regression", classes=["age"]))
    assert cells(page)[-6:] == ["age", "55", "55", "50.5 to 59.5", "52", "2"]


def test_a_slide_page_of_a_segmentation_shows_areas_and_dice(tmp_path, page_of):
    columns = {"score_a": [0.5, 0.0], "tp_a": [30, 0], "fp_a": [20, 0], "fn_a": [0, 0]}
    page = page_of(task(tmp_path, columns, kind="segmentation", classes=["a"]))
    assert cells(page)[-3:] == ["a", "0.25", "0.75"]


def test_a_slide_page_says_that_the_model_was_validated_on_the_slide(tmp_path, page_of):
    columns = {"score_a": [0.5, 0.0], "tp_a": [30, 0], "fp_a": [20, 0], "fn_a": [0, 0]}
    one = task(tmp_path, columns, kind="segmentation", classes=["a"])
    assert "no independent test" not in page_of(one)
    assert "no independent test" in page_of(dataclasses.replace(one, validated=True))


def test_a_slide_page_counts_cells_in_the_tissue_by_class(tmp_path, page_of):
    page = page_of(cells={"n": typed_cells(tmp_path / "cells.parquet")})
    assert cells(page)[-12:] == ["all", "3", "1.2", "2", "immune", "1", "0.4", "2", "tumor", "2", "0.8", "2"]
    assert "2 cells are left out: covered." in page


def test_a_slide_page_says_why_a_slide_has_no_cells(tmp_path, page_of):
    lost = sample_records.lost("s1", stage="cells", detail="no tile")
    write_cells(empty_table(lost, Cells(source="annotation")), tmp_path / "cells.parquet")
    assert "The slide has no cells: no tile" in page_of(cells={"n": tmp_path / "cells.parquet"})


def typed_cells(path):
    """Write a table of a tumor cell, another one and an immune cell, of 2 µm² each; return its path."""
    columns = {name: np.full(3, 2, np.float32) for name in MEASURED} | {"class": ["tumor", "tumor", "immune"]}
    columns |= {"cell_id": [1, 2, 3], "neighbours_25um": [0] * 3, "neighbours_50um": [0] * 3}
    table = pa.table(columns, schema=schema((25, 50)))
    record = CellTableRecord(
        **{"slide_id": "s1", "sha256": "ab", "source": "annotation", "class_names": ("immune", "tumor"), "cells": 3},
        **{"mpp": 0.5, "scale": 1.0, "neighbours_um": (25, 50), "warnings": ("2 cells are left out: covered.",)},
    )
    write_cells(table.replace_schema_metadata({METADATA_KEY: record.encode("t")}), path)
    return path


def test_a_slide_page_without_a_predicted_patch_says_so(tmp_path, page_of):
    for kind in ("classification", "regression", "segmentation"):
        assert "This slide has no predicted patch" in page_of(task(tmp_path, {"score_a": []}, kind=kind, classes=["a"]))


def test_a_slide_page_shows_what_cascades_did(tmp_path, page_of):
    Image.new("RGB", (40, 30)).save(tmp_path / "levels.png")
    page = page_of(cascades={"nuclei": tmp_path / "levels.png"})
    assert "Cascade nuclei" in page
    assert page.count("<img") == 2


def test_a_slide_page_shows_which_stage_of_a_patch_cascade_decided_what(tmp_path, page_of):
    Image.new("RGB", (40, 30)).save(tmp_path / "stages.png")
    page = page_of(stages={("tumour", 1): tmp_path / "stages.png"})
    assert "Cascade tumour, fold 1" in page
    assert "which stage decided which patch" in page


def test_the_page_of_a_quarantined_slide_says_why_and_what_to_do(page_of):
    page = page_of(records=sample_records.lost())
    assert "In quarantine: no_mpp" in page
    assert "Give one in the sheet" in page


def test_a_slide_page_lists_absent_tiles_and_images_that_were_left_out(page_of):
    manifest = sample_records.manifest(associated={"label": "left out: it may show the patient's name"})
    level = msgspec.structs.replace(manifest.levels[0], empty_tiles=1234)
    manifest = msgspec.structs.replace(manifest, levels=(level, *manifest.levels[1:]))
    page = page_of(records=RECORDS._replace(manifest=manifest))
    assert "1,234, shown as glass" in page
    assert "label: left out" in page


def test_a_slide_page_shows_the_warnings_of_every_stage(page_of):
    annotation = sample_records.annotation(warnings=("2 <points> were left out.",))
    table = sample_records.patch_table(warnings=("At most 3% lies on tissue.",))
    page = page_of(records=RECORDS._replace(annotation=annotation, table=table))
    assert "2 &lt;points&gt; were left out." in page
    assert "At most 3% lies on tissue." in page


def test_a_slide_page_says_what_is_annotated(page_of):
    counts = {"regions": {"tumour": 2}, "area_px": {"tumour": 4e6}, "ignored": {"x": 1}, "cut_out": {"hole": 3}}
    annotation = sample_records.annotation(annotation_format="asap", repaired=1, **counts)
    page = page_of(records=RECORDS._replace(annotation=annotation))
    assert "asap: tumour 1 mm² (2), ignored x (1), cut out hole (3), 1 outlines cross themselves" in page


def test_each_metric_has_one_row_with_a_column_per_level():
    value, bare, undefined = (
        sample_records.metric(0.912, 0.85, 0.97),
        sample_records.metric(1.0),
        sample_records.metric(None),
    )
    patch = {"all": {"auroc": value, "ece": bare}, "a": {"auroc": value}}
    slide = {"all": {"auroc": bare, "ece": undefined}}
    levels = {
        "patch": LevelMetrics(count=1200, patients=3, metrics=patch),
        "slide": LevelMetrics(count=4, patients=3, metrics=slide),
    }
    metrics = sample_records.metrics(levels)
    found = cells(task_section.metrics_table(metrics))
    assert found[:6] == ["AUROC", "0.912 (0.850–0.970)", "1.000", "calibration error (ECE)", "1.000", "–"]
    assert found[6:] == ["a: AUROC", "0.912 (0.850–0.970)", "–"]
    assert "Only 3 test patients" in task_section.metrics_table(metrics)


@pytest.mark.parametrize(("high", "noted"), [(1.0, True), (0.9, False)])
def test_an_interval_without_width_is_explained(high, noted):
    level = LevelMetrics(count=12, patients=12, metrics={"all": {"auroc": sample_records.metric(1.0, 1.0, high)}})
    shown = task_section.metrics_table(sample_records.metrics({"slide": level}))
    assert ("without width" in shown) == noted


def test_an_interval_with_a_negative_end_has_no_dash():
    assert with_interval(sample_records.metric(-1.4, -1.7, -0.1)) == "-1.400 (-1.700 to -0.100)"
    assert with_interval(sample_records.metric(0.9, 0.8, 1.0)) == "0.900 (0.800–1.000)"


def test_the_headline_of_a_bag_task_is_about_patients_and_that_of_a_patch_task_about_patches():
    auroc = {"all": {"auroc": sample_records.metric(0.912, 0.85, 0.97)}}
    level = LevelMetrics(count=12, patients=12, metrics=auroc)
    of_bags = headline({"slide": level, "patient": level})
    of_patches = headline({"patch": level, "slide": level, "patient": level})
    assert of_bags == [("patient AUROC (0.85–0.97)", "0.912")]
    assert of_patches == [("patch AUROC (0.85–0.97)", "0.912")]
    assert headline({}) == []


def test_a_value_is_not_broken_before_the_end_of_its_interval():
    table = page.table(["metric", "value"], [["AUROC", "0.912 (0.850–0.970)"], ["Dice", "0.5 ± 0.1"], ["p (q)", None]])
    assert re.findall(r'<td class="value">([^<]*)<', table) == ["0.912 (0.850–0.970)", "0.5 ± 0.1"]


def test_a_caption_is_no_wider_than_its_picture():
    page_of_one = page.picture(np.zeros((4, 4, 3), np.uint8), "long " * 50, width=300)
    assert '<figure style="max-width:300px">' in page_of_one


@pytest.mark.parametrize(
    ("kind", "target", "expected"),
    [
        ("classification", {"source": "annotation", "classes": ["a", "b"]}, [3, 1, 0]),
        ("segmentation", {"source": "mask", "classes": ["a", "b"]}, [3, 2, 0]),
        ("classification", {"source": "sheet", "column": "grade", "classes": ["a", "b"]}, [3]),
    ],
)
def test_patches_per_class_are_counted_by_the_rule_of_the_target(kind, target, expected):
    model = {"name": "unet"} if kind == "segmentation" else {}
    with duckdb.connect() as catalog:
        catalog.execute("CREATE TABLE patches_x20_kept (slide_id VARCHAR, area_a FLOAT, area_b FLOAT)")
        catalog.execute("INSERT INTO patches_x20_kept VALUES ('S', 0.9, 0), ('S', 0.1, 0), ('S', 0, 0), ('lost', 1, 1)")
        catalog.execute(
            "CREATE TABLE splits AS FROM (VALUES ('t', 0, 'S', 'P1', 'train'), ('t', 0, 'bare', 'P1', 'train'), "
            "('t', 0, 'lost', 'P2', 'train'), ('t', 0, 'none', 'P3', 'test'), ('other', 0, 'S', 'P1', 'test')) "
            "AS s(task, fold, slide_id, patient_id, role)"
        )
        catalog.execute(
            "CREATE TABLE quarantine AS SELECT 'lost' AS slide_id, NULL AS task UNION ALL SELECT 'a', 'tumour'"
        )
        found = task_section.cohort_rows("t", Task(kind=kind, grid="x20", target=target, model=model), catalog)
    empty = [0] * len(expected)
    assert found == [[0, "test", 1, 1, *empty], [0, "train", 2, 1, *expected]]


def test_examples_are_the_most_certain_correct_the_least_certain_and_the_worst_wrong_ones():
    scores = np.array([0.9, 0.6, 0.8, 0.99, 0.1])
    table = pa.table(
        {
            "score_a": 1 - scores,
            "score_b": scores,
            "predicted": pa.array(["b", "b", "b", "b", "a"]).cast(DICTIONARY),
            "label": pa.array(["b", "b", "a", "a", None]).cast(DICTIONARY),
        }
    )
    found = {r.reason.split(" (")[0]: r.rows.tolist() for r in right_and_wrong(table, ["a", "b"])}
    assert found == {
        "a, right and most certain": [],
        "b, right and most certain": [0, 1],
        "right, least certain": [1, 0],
        "wrong, most certain first": [3, 2],
    }


@pytest.fixture
def cascades(tmp_path):
    """A results folder with the outputs of a cascade, and its configuration."""
    layout = Layout(tmp_path)
    folder = tmp_path / "radhical" / "nuclei"
    before = CascadeMetrics.read(ROOT / "tests" / "data" / "records" / "format0" / "cascade_metrics.json")
    seconds = CascadeSeconds(naive=800.0, dense=6.0, cascade=2.0)
    group = replace(before.groups["images"], slides=3, saved=0.928, saved_in_tissue=0.64, seconds=seconds)
    bar = Bar(figure="saved vs naive", value=0.928, bar=">= 0.85", ok=True)
    replace(before, groups={"whole slides": group}, bars=[bar]).write(layout.cascade("nuclei").metrics)
    chosen = ThresholdsRecord.read(ROOT / "tests" / "data" / "records" / "format0" / "cascade_thresholds.json")
    chosen.write(layout.cascade("nuclei").thresholds)
    (folder / "levels").mkdir()
    for path in (folder / "pareto.png", folder / "levels" / "S1.png"):
        Image.new("RGB", (40, 30)).save(path)
    return Config.model_validate({"radhical": {"nuclei": {}}}), layout


def test_savings_of_cascades_are_listed_in_tables(cascades):
    page = cascades_section.cascades_section(*cascades)
    assert cells(page)[:7] == ["whole slides", "3", "92.8%", "64.0%", "800", "6", "2"]
    assert cells(page)[-4:] == ["saved vs naive", "0.928", "&gt;= 0.85", "yes"]
    assert page.count("<img") == 2
    assert "dense network is used" not in page


def test_the_report_has_pictures_of_the_first_slides_of_a_cascade_and_says_where_the_others_are(cascades, monkeypatch):
    monkeypatch.setattr(cascades_section, "MOST", 2)
    config, layout = cascades
    for slide in ("S2", "S3"):
        Image.new("RGB", (40, 30)).save(layout.cascade("nuclei").levels_view(slide))
    page = cascades_section.cascades_section(config, layout)
    assert [name for name in ("S1", "S2", "S3") if f'alt="{name}"' in page] == ["S1", "S2"]
    assert "The first 2 of 3 pictures; those of the other slides are on their pages." in page


def test_objects_of_a_cascade_are_scored_beside_those_of_otsu_with_what_parted_them(cascades):
    config, layout = cascades
    files = layout.cascade("nuclei")
    tried = [
        ScoredNeck(neck_um=neck, object_f1=score, pq=0.4, f=0.6, count_error=0.2)
        for neck, score in ((None, 0.25), (0.75, 0.625))
    ]
    replace(ThresholdsRecord.read(files.thresholds), parting=Parting(neck_um=0.75, tried=tried)).write(files.thresholds)
    metrics = CascadeMetrics.read(files.metrics)
    values = dict.fromkeys(("f", "tpr", "ppv", "detected", "pixel_f", "nuclei", "found"), 0.5)
    scores = {
        way: NucleusScores(**values, aji=aji, pq=0.375, object_f1=0.875, count_error=0.125)
        for way, aji in (("cascade", 0.75), ("otsu", 0.25))
    }
    group = replace(metrics.groups["whole slides"], patients=2, scores=scores)
    replace(metrics, groups={"whole slides": group}).write(files.metrics)
    page = cascades_section.cascades_section(config, layout)
    found = cells(page)
    start = found.index("cascade") - 1
    assert found[start : start + 3] == ["whole slides", "cascade", "2"]
    assert found[start + 8 : start + 12] == ["0.875", "0.75", "0.375", "0.125"]
    otsu = found[found.index("Otsu + watershed") :]
    assert otsu[8] == "0.25"
    assert "Touching nuclei are parted with neck_um 0.75." in page
    assert otsu[11:16] == ["–", "0.25", "0.4", "0.6", "0.2"]


def test_cells_are_listed_by_class_and_slide_with_what_is_missing(tmp_path):
    layout, config = Layout(tmp_path), Config.model_validate({"cells": {"n": {"source": "annotation"}}})
    typed_cells(layout.cells("n", "s1"))
    lost = sample_records.lost("s2", stage="cells", detail="no tile")
    write_cells(empty_table(lost, config.cells["n"]), layout.cells("n", "s2"))
    with duckdb.connect() as catalog:
        catalog.execute("CREATE TABLE slides AS SELECT 's1' AS slide_id, 1.5 AS tissue_area_mm2")
        path = str(layout.cells("n", "s1"))
        catalog.execute("CREATE TABLE cells_n AS SELECT 's1' AS slide_id, * FROM read_parquet(?)", [path])
        text = cells_section(config, layout, catalog)
    assert cells(text)[:6] == ["immune", "1", "1", "2", "2", "2"]
    assert cells(text)[6:9] == ["tumor", "2", "1"]
    assert "no tile" in text
    assert "2 cells are left out: covered." in text
    assert cells(text)[-4:] == ["s1", "3", "2", "2"]


def test_the_report_says_that_the_dense_network_is_used(cascades):
    thresholds = cascades[1].cascade("nuclei").thresholds
    replace(ThresholdsRecord.read(thresholds), rule="dense").write(thresholds)
    assert "The dense network is used and no cascade" in cascades_section.cascades_section(*cascades)


def test_the_report_counts_images_that_were_taken_as_fields_of_view(tmp_path):
    row = {
        "slide_id": "s1",
        "clean_share": 1.0,
        "pen_share": 0.0,
        "blur_share": 0.0,
        "fold_share": 0.0,
        "sharpness": 1.0,
    }
    rows = [row | {"tissue_method": method} for method in ("field of view", "saturation, otsu", "field of view")]
    assert "2 image(s) without glass were taken as fields of view" in front_page._quality(rows, Layout(tmp_path))
    assert "fields of view" not in front_page._quality(rows[1:2], Layout(tmp_path))


def test_gpu_time_is_that_of_every_rule_that_asks_for_a_gpu():
    asking = set()
    for path in RULES.glob("*.smk"):
        for rule in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            if re.search(r"^ +gpu=", rule, re.MULTILINE):
                asking.add(re.search(r'LAYOUT\.benchmark\("(\w+)"', rule)[1])
    assert asking == GPU_RULES


def test_without_cascades_the_report_has_no_such_section(tmp_path):
    assert cascades_section.cascades_section(Config.model_validate({}), Layout(tmp_path)) == ""


@pytest.mark.machine
def test_a_page_inside_the_one_file_report_has_no_broken_links(tmp_path):
    linked = page.document("t", [page.link("below", "#there"), page.link("P-1.a", "slides/P-1.a.html")])
    address = "data:text/html;base64," + base64.b64encode(linked.encode()).decode()
    with Browser() as browser:
        for url, expected in ((address, ["below"]), ((tmp_path / "page.html").as_uri(), ["below", "P-1.a"])):
            (tmp_path / "page.html").write_text(linked)
            browser.open(url)
            browser.wait("document.readyState === 'complete' && document.links.length > 0")
            assert browser.value("[...document.links].map((a) => a.innerText)") == expected
            assert "P-1.a" in browser.value("document.body.innerText")


def test_levels_have_the_order_of_figures_and_not_that_of_a_file():
    assert list(levels_in_order({"patient": 3, "patch": 1, "slide": 2})) == ["patch", "slide", "patient"]
