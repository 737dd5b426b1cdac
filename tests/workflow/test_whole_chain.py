"""The whole workflow on the small cohort: the output of every stage exists and is correct."""

import json
import re

import duckdb
import pyarrow.parquet as pq
import pytest


def test_every_usable_slide_has_a_store_a_mask_and_tables(finished):
    manifests = {
        p.stem: json.loads(p.read_text()) for p in (finished.results / "slides").glob("*.json") if ".meta" not in p.name
    }
    usable = {slide for slide, manifest in manifests.items() if manifest["status"] == "ok"}
    assert usable == {"P01-A", "P02-A", "P03.B", "P04-A"}
    for slide in usable:
        assert (finished.results / "slides" / manifests[slide]["store"]).exists()
        for grid in ("x10", "x5"):
            table = pq.read_table(finished.results / "patches" / grid / f"{slide}.parquet")
            kept = [e == "" for e in table["excluded"].to_pylist()]
            assert any(kept)
            assert not all(kept)


def test_the_slide_without_mpp_is_in_quarantine_and_named_at_the_end_of_the_run(finished):
    entries = json.loads((finished.results / "quarantine.json").read_text())
    assert [(e["slide_id"], e["reason"]) for e in entries] == [("P04-B", "no_mpp")]
    closing = finished.printed.read_text()[-3000:]
    assert "P04-B (no_mpp)" in closing
    assert "sheet" in entries[0]["remedy"]
    empty = pq.read_table(finished.results / "patches" / "x10" / "P04-B.parquet")
    full = pq.read_table(finished.results / "patches" / "x10" / "P01-A.parquet")
    assert empty.num_rows == 0
    assert empty.schema.equals(full.schema)


def test_the_catalog_has_the_reason_of_every_excluded_patch(finished):
    with duckdb.connect(finished.results / "catalog.duckdb", read_only=True) as catalog:
        counts = dict(catalog.sql("SELECT excluded::VARCHAR, count(*) FROM patches_x10 GROUP BY 1").fetchall())
        assert counts[""] > 0
        assert counts["background"] > 0
        slides = catalog.sql("SELECT count(*) FROM slides").fetchall()
        assert slides == [(5,)]


def test_no_patient_is_in_two_roles(finished):
    rows = pq.read_table(finished.results / "splits" / "tissue_kind.parquet").to_pylist()
    roles = {}
    for row in rows:
        roles.setdefault(row["patient_id"], set()).add(row["role"])
    assert all(len(r) == 1 for r in roles.values())


def test_predictions_are_measured_with_intervals_by_patient(finished):
    metrics = json.loads((finished.results / "metrics" / "tissue_kind.json").read_text())
    assert metrics["bootstraps"] == 1000
    table = pq.read_table(finished.results / "metrics" / "tissue_kind.parquet").to_pylist()
    measured = {(row["level"], row["metric"]) for row in table}
    assert {("patch", m) for m in ("auroc", "accuracy", "sensitivity", "specificity")} <= measured


def test_the_front_page_lists_quarantined_slides_and_counts_them_in_no_role(finished):
    text = (finished.results / "report" / "index.html").read_text()
    assert "1 slide(s) are in quarantine" in text
    assert "mpp column of the slide sheet" in text
    cohort = text.split('id="tissue_kind-split"')[1].split("</table>")[0]
    rows = re.findall(r'<td class="number">0</td>\n<td>(\w+)</td>\n<td class="number">(\d+)</td>', cohort)
    assert sum(int(slides) for _, slides in rows) == 4
    assert {role for role, _ in rows} == {"train", "val", "test"}


def test_a_tested_slide_has_its_page_its_views_and_its_region(finished):
    drawn = (finished.results / "views" / "tissue_kind" / "fold0").iterdir()
    (folder,) = (path for path in drawn if path.name != "P04-B")  # the patient's other slide is in quarantine
    found = {path.name for path in folder.glob("*.jpg")}
    views = {"prediction.jpg", "confidence.jpg", "truth.jpg"}
    assert found == views | {"region_500_700_1500_900.jpg"}
    text = (finished.results / "report" / "slides" / f"{folder.name}.html").read_text()
    assert text.count("<img") == 5
    assert "http://" not in text
    assert "https://" not in text


def test_every_slide_has_a_picture_of_its_tissue_or_of_why_there_is_none(finished):
    found = {path.stem for path in (finished.results / "views" / "tissue").glob("*.jpg")}
    assert found == {"P01-A", "P02-A", "P03.B", "P04-A", "P04-B"}


def test_every_output_can_be_traced_to_its_slide(finished):
    rows = pq.read_table(finished.results / "audit" / "lineage.parquet").to_pylist()
    rules = {row["rule"] for row in rows}
    assert {"convert", "presegment", "tabulate_patches", "train", "predict_slide", "evaluate", "catalog"} <= rules
    converted = {row["slide_id"] for row in rows if row["rule"] == "convert"}
    assert len(converted) == 5
    assert all(len(row["sha256"]) == 64 for row in rows)


def test_a_finished_run_has_nothing_left_to_do(workshop):
    assert workshop.planned() == set()


@pytest.mark.parametrize("identifiers", [False, True])
def test_snakemakes_report_shows_slides_only_if_it_may_identify(workshop, identifiers):
    workshop.write_config(export={"identifiers": identifiers})
    workshop.snakemake("--report", "report.html")
    # Encoded files contain any three letters by chance, and regular expressions escape the hyphen.
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", (workshop.folder / "report.html").read_text()).replace("\\", "")
    assert "tissue_kind" in text
    rows = [dict(zip(workshop.rows()[0].split("\t"), row.split("\t"), strict=True)) for row in workshop.rows()[1:]]
    names = [row[column] for row in rows for column in ("slide_id", "patient_id", "path")]
    assert any(name in text for name in names) == identifiers
