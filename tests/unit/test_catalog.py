"""Tests of the catalog: queries for slides, patches and the reasons for their exclusion."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from histomake.base.errors import Reason
from histomake.cascade.patch_cascade import SCHEMA as CASCADE_SCHEMA
from histomake.catalog.build import build_catalog
from histomake.cells import table as cell_tables
from histomake.config import Cells, Grid
from histomake.patch.table import REASONS
from histomake.patch.tabulate import empty_table, schema, write_patch_table

from tests import sample_records

README = Path(__file__).parents[2] / "config" / "README.md"
GRID = Grid()
CELLS = Cells(source="annotation")
CLASSES = ["stroma", "tumor"]
BAD = sample_records.lost(
    "s3", stage="presegment", reason=Reason.NO_TISSUE, path="o'hara.svs", detail="no tissue", remedy="look"
)


def patch_table(kept, background):
    n = kept + background
    columns = [np.arange(n, dtype=np.uint32), *(np.arange(n, dtype=np.int32),) * 2]
    columns += [np.ones(n, np.float32), np.full(n, 0.25, np.float32), np.zeros(n, np.float32)]
    excluded = pa.array(np.repeat([0, REASONS.index("background")], [kept, background]).astype(np.int8))
    reason = pa.DictionaryArray.from_arrays(excluded, pa.array(REASONS))
    return pa.Table.from_arrays([*map(pa.array, columns), reason], schema=schema(CLASSES))


def two_cells():
    values = {name: np.ones(2, np.float32) for name in cell_tables.MEASURED} | {"class": ["tumor", None]}
    values |= {"cell_id": [1, 2], "neighbours_25um": [1, 1], "neighbours_50um": [1, 1]}
    return pa.table(values, schema=cell_tables.schema(CELLS.neighbours_um))


@pytest.fixture
def results(tmp_path):
    """Three slides, of which s3 has no tissue, and one task with predictions in two folds."""

    def written(stage, records):
        paths = [tmp_path / stage / f"{record.slide_id}.json" for record in records]
        for path, record in zip(paths, records, strict=True):
            record.write(path)
        return paths

    slides = ("s1", "s2.b", "s3")
    usable = slides[:2]
    drawn = sample_records.annotation("s1", annotation_format="asap", regions={"tumor": 4}, area_px={"tumor": 99.0})
    shares = {"pen": 0.0, "blur": 0.1, "fold": 0.0}
    paths = {
        "manifests": written("slides", [sample_records.manifest(s) for s in slides]),
        "tissue": written("tissue", [*(sample_records.tissue(s, area_mm2=5.0) for s in usable), BAD]),
        "quality": written(
            "quality", [*(sample_records.quality(s, sharpness=3.5, shares=shares) for s in usable), BAD]
        ),
        "annotations": written("annotations", [drawn, *map(sample_records.no_annotation, slides[1:])]),
    }
    tables = [tmp_path / "patches" / f"{s}.parquet" for s in slides]
    for path, table in zip(tables, (patch_table(3, 5), patch_table(2, 0), None), strict=True):
        write_patch_table(table if table is not None else empty_table(BAD, CLASSES), path)
    split = tmp_path / "grade.parquet"
    pq.write_table(
        pa.table(
            {
                "fold": pa.array([0, 0, 1, 1], pa.int16()),
                "slide_id": ["s1", "s2.b"] * 2,
                "patient_id": ["p1", "p2"] * 2,
                "role": ["train", "test", "test", "train"],
            }
        ),
        split,
    )
    predictions = []
    for fold, slide in ((0, "s2.b"), (1, "s1")):
        predictions.append(tmp_path / "predictions" / "grade" / f"fold{fold}" / f"{slide}.parquet")
        predictions[-1].parent.mkdir(parents=True)
        half = pa.array([0.5], pa.float32())
        scores = {"patch_id": pa.array([7], pa.uint32()), "score_stroma": half, "score_tumor": half}
        pq.write_table(pa.table(scores), predictions[-1])
    paths |= {"tables": {"x20": tables}, "splits": {"grade": split}, "predictions": {"grade": predictions}}
    paths["cells"] = {"nuclei": [tmp_path / "cells" / f"{slide}.parquet" for slide in ("s1", "s3")]}
    decided = [tmp_path / "cascades" / "tumour" / f"fold{fold}" / "s1.parquet" for fold in range(2)]
    for path, state in zip(decided, ("rejected", "computed"), strict=True):
        row = {"patch_id": [0], "x": [0], "y": [0], "tissue": [1.0], "score": [0.5], "state": [state], "stage": [1]}
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pydict(row, schema=CASCADE_SCHEMA), path)
    paths["cascades"] = {"tumour": decided}
    for path, table in zip(paths["cells"]["nuclei"], (two_cells(), cell_tables.empty_table(BAD, CELLS)), strict=True):
        cell_tables.write_cells(table, path)
    sheet = [("s1", "p1", "north", {"grade": "2"}), ("s2.b", "p2", None, {"grade": "3"}), ("s3", "p3", None, {})]
    build_catalog(tmp_path / "catalog.duckdb", **paths, sheet=sheet)
    return tmp_path


@pytest.fixture
def base(results):
    with duckdb.connect(results / "catalog.duckdb", read_only=True) as connection:
        yield connection


def test_exclusions_can_be_queried(base):
    counts = base.execute("SELECT excluded, count(*) FROM patches_x20 GROUP BY 1").fetchall()
    assert dict(counts) == {"": 5, "background": 5}


def test_patches_have_their_slide_even_if_its_name_has_dots(base):
    counts = base.execute("SELECT slide_id, count(*) FROM patches_x20 GROUP BY 1 ORDER BY 1").fetchall()
    assert counts == [("s1", 8), ("s2.b", 2)]


def test_kept_patches_have_a_view(base):
    assert base.execute("SELECT count(*) FROM patches_x20_kept").fetchone() == (5,)


def test_slides_have_columns_of_sheet_manifest_tissue_and_quality(base):
    wanted = "slide_id, patient_id, site, label_grade, mpp, tissue_area_mm2, blur_share, sharpness"
    rows = base.execute(f"SELECT {wanted} FROM slides ORDER BY slide_id").fetchall()
    assert rows[0] == ("s1", "p1", "north", "2", 0.5, 5.0, 0.1, 3.5)
    assert rows[2] == ("s3", "p3", None, None, 0.5, None, None, None)


def test_the_quarantine_table_has_slide_stage_and_reason(base):
    assert base.execute("FROM quarantine").fetchall() == [
        ("s3", None, "presegment", "no_tissue", "o'hara.svs", "no tissue", "look")
    ]


def test_annotations_are_listed_by_class(base):
    rows = base.execute("SELECT slide_id, class, regions, area_px FROM annotations").fetchall()
    assert rows == [("s1", "tumor", 4, 99.0)]


def test_class_balance_is_given_per_task_fold_and_role(base):
    rows = base.execute("SELECT fold, role, class, slides, patches, patch_areas FROM class_balance_x20").fetchall()
    assert rows == [
        (0, "test", "stroma", 1, 2, 0.5),
        (0, "train", "stroma", 1, 3, 0.75),
        (1, "test", "stroma", 1, 3, 0.75),
        (1, "train", "stroma", 1, 2, 0.5),
    ]


def test_predictions_of_a_cascade_have_their_slide_and_fold(base):
    wanted = "fold, slide_id, patient_id, state, stage"
    rows = base.execute(f"SELECT {wanted} FROM cascade_tumour JOIN slides USING (slide_id) ORDER BY fold").fetchall()
    assert rows == [(0, "s1", "p1", "rejected", 1), (1, "s1", "p1", "computed", 1)]


def test_cells_have_their_slide_and_class_and_join_with_slides(base):
    rows = base.execute(
        "SELECT slide_id, patient_id, cell_id, class, neighbours_25um FROM cells_nuclei JOIN slides USING (slide_id)"
    ).fetchall()
    assert sorted(rows) == [("s1", "p1", 1, "tumor", 1), ("s1", "p1", 2, None, 1)]


def test_predictions_have_their_fold_and_slide(base):
    rows = base.execute("SELECT fold, slide_id, patch_id, score_tumor FROM predictions_grade ORDER BY 1").fetchall()
    assert rows == [(0, "s2.b", 7, 0.5), (1, "s1", 7, 0.5)]


@pytest.mark.parametrize("query", re.findall(r"```sql\n(.*?)```", README.read_text(), re.DOTALL))
def test_the_documented_queries_run(base, query):
    base.execute(query.replace("<grid>", "x20").replace("<task>", "grade")).fetchall()


def test_the_old_catalog_is_kept_if_a_build_fails(results):
    before = (results / "catalog.duckdb").read_bytes()
    nothing = {"manifests": [], "tissue": [], "quality": [], "annotations": [], "splits": {}, "predictions": {}}
    with pytest.raises(duckdb.IOException):
        build_catalog(results / "catalog.duckdb", **nothing, tables={"x20": [results / "absent.parquet"]})
    assert (results / "catalog.duckdb").read_bytes() == before
    assert not list(results.glob(".*"))


def test_an_empty_cohort_has_all_tables(tmp_path):
    nothing = {"manifests": [], "tissue": [], "quality": [], "annotations": [], "splits": {}, "predictions": {}}
    build_catalog(tmp_path / "c.duckdb", **nothing, tables={})
    with duckdb.connect(tmp_path / "c.duckdb", read_only=True) as base:
        assert {name for (name,) in base.execute("SHOW TABLES").fetchall()} >= {
            *("slides", "quarantine", "splits"),
            *("metrics", "subgroups", "subgroup_tests"),
        }
