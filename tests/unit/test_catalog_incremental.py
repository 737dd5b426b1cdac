"""Tests of incremental builds: after any change of the cohort the catalog equals one built from scratch."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from histomake.base.file_cache import FileCache
from histomake.catalog.build import build_catalog
from histomake.patch.table import REASONS
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import sample_records

STAGES = {
    "manifests": lambda slide, version: sample_records.manifest(slide, width=version + 1),
    "tissue": lambda slide, version: sample_records.tissue(slide, area_mm2=float(version)),
    "quality": lambda slide, version: sample_records.quality(slide, sharpness=float(version)),
    "annotations": lambda slide, version: sample_records.annotation(slide, area_px={"x": float(version)}),
}
"""A record of each stage, of a slide's version."""

SLIDES = st.sampled_from(["a", "b.1", "c", "d'e"])
COHORTS = st.lists(st.dictionaries(SLIDES, st.integers(0, 2), min_size=1), min_size=2, max_size=4)
"""Successive cohorts: for each slide the version of its files."""


def patches(version: int) -> pa.Table:
    count = 2 + version
    reason = pa.DictionaryArray.from_arrays(pa.array(np.full(count, version, np.int8)), pa.array(REASONS))
    return pa.table({"patch_id": pa.array(range(count), pa.uint32()), "area_x": [0.5] * count, "excluded": reason})


def write(root: Path, cohort: dict[str, int]) -> dict:
    """Write the files of a cohort, except those that exist in the right version; return the arguments of the build."""
    for slide, version in cohort.items():
        stamp = root / f"{slide}.version"
        if stamp.is_file() and stamp.read_text() == str(version):
            continue
        for stage, record in STAGES.items():
            record(slide, version).write(root / stage / f"{slide}.json")
        for place in ("patches/x", "predictions/t/fold0", "predictions/t/fold1"):
            path = root / place / f"{slide}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(patches(version), path)
        stamp.write_text(str(version))
    records = {stage: [root / stage / f"{slide}.json" for slide in cohort] for stage in STAGES}
    predictions = [
        root / "predictions" / "t" / f"fold{fold}" / f"{slide}.parquet" for fold in (0, 1) for slide in cohort
    ]
    tables = {"x": [root / "patches" / "x" / f"{slide}.parquet" for slide in cohort]}
    return records | {"tables": tables, "splits": {}, "predictions": {"t": predictions}}


def content(path: Path) -> dict[str, list]:
    """Return every table and view: columns with types, and rows in a fixed order."""
    with duckdb.connect(path, read_only=True) as base:
        names = [name for (name,) in base.execute("SHOW TABLES").fetchall()]
        assert {"slides", "patches_x", "patches_x_kept", "predictions_t", "class_balance_x"} <= set(names)
        found = {}
        for name in names:
            columns = [row[:2] for row in base.execute(f"DESCRIBE {name}").fetchall()]
            found[name] = [columns, *sorted(map(repr, base.execute(f"FROM {name}").fetchall()))]
        return found


def rebuild(root: Path, arguments: dict, *, code: str = "1") -> FileCache:
    cache = FileCache(root / "memory.parquet")
    build_catalog(root / "catalog.duckdb", **arguments, cache=cache, previous=root / "memory.duckdb", code=code)
    cache.save()
    return cache


@given(cohorts=COHORTS)
@settings(max_examples=12, deadline=None)
def test_an_incremental_catalog_equals_one_built_from_scratch(cohorts):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for cohort in cohorts:
            arguments = write(root, cohort)
            rebuild(root, arguments)
            (root / "catalog.duckdb").rename(root / "shown.duckdb")
            build_catalog(root / "new.duckdb", **arguments)
            assert content(root / "shown.duckdb") == content(root / "new.duckdb")


@pytest.fixture
def built(tmp_path):
    """The arguments of a catalog of three slides that has been built once."""
    arguments = write(tmp_path, {"a": 0, "b.1": 0, "c": 0})
    rebuild(tmp_path, arguments)
    return arguments


def test_after_a_change_of_one_slide_only_its_files_are_read(built, tmp_path, caplog):
    caplog.set_level("INFO")
    arguments = write(tmp_path, {"a": 0, "b.1": 1, "c": 0, "d'e": 0})
    assert rebuild(tmp_path, arguments).files_read == 2 * len(STAGES)
    assert "patches_x: read 2 of 4 files" in caplog.text
    assert "predictions_t: read 4 of 8 files" in caplog.text


def test_a_catalog_is_reused_after_snakemake_has_set_its_time(built, tmp_path, caplog):
    caplog.set_level("INFO")
    os.utime(tmp_path / "catalog.duckdb")
    rebuild(tmp_path, built)
    assert "patches_x: read 0 of 3 files" in caplog.text


def test_rows_of_other_code_are_not_reused(built, tmp_path, caplog):
    caplog.set_level("INFO")
    rebuild(tmp_path, built, code="2")
    assert "patches_x: read 3 of 3 files" in caplog.text


def test_an_unusable_previous_catalog_is_ignored(built, tmp_path, caplog):
    memory = tmp_path / "memory.duckdb"
    memory.unlink()
    memory.write_bytes(b"no catalog")
    rebuild(tmp_path, built)
    assert "cannot be used" in caplog.text
    build_catalog(tmp_path / "new.duckdb", **built)
    assert content(tmp_path / "catalog.duckdb") == content(tmp_path / "new.duckdb")
