"""Owns the catalog: one DuckDB file in which the cohort's slides, patches, splits and predictions can be queried."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from histomake.files import atomic_file, read_json
from histomake.patch.table import REASONS
from histomake.quarantine import collect

Record = dict[str, Any]
SheetRow = tuple[str, str, str | None, Mapping[str, str]]

MANIFEST_COLUMNS = {
    "status": pa.string(),
    "width": pa.int64(),
    "height": pa.int64(),
    "mpp": pa.float64(),
    "mpp_source": pa.string(),
    "vendor": pa.string(),
    "format": pa.string(),
    "sha256": pa.string(),
    "bytes_in": pa.int64(),
    "bytes_out": pa.int64(),
    "files": pa.int64(),
}
TISSUE_COLUMNS = {"area_mm2": pa.float64(), "components": pa.int64(), "coverage": pa.float64()}
ARTEFACTS = ("pen", "blur", "fold")
QUARANTINE_COLUMNS = ("slide_id", "stage", "reason", "path", "detail", "remedy")
STAGES = ("convert", "annotate", "presegment", "quality")


def build_catalog(
    path: Path | str,
    *,
    manifests: Iterable[Path | str],
    tissue: Iterable[Path | str],
    quality: Iterable[Path | str],
    annotations: Iterable[Path | str],
    tables: Mapping[str, Sequence[Path | str]],
    splits: Mapping[str, Path | str],
    predictions: Mapping[str, Sequence[Path | str]],
    sheet: Iterable[SheetRow] = (),
    memory_mb: int = 4000,
    threads: int = 2,
) -> None:
    """Build the catalog aside and put it in place when it is whole.

    Parquet files are streamed into it, so memory stays near ``memory_mb`` whatever the size of the cohort.

    Args:
        path: the DuckDB file.
        manifests, tissue, quality, annotations: per-slide JSON records; quarantined ones fill ``quarantine``.
        tables: patch tables ``{slide}.parquet`` by grid.
        splits: split file by task.
        predictions: prediction files ``fold{k}/{slide}.parquet`` by task.
        sheet: slide_id, patient_id, site and labels of every slide.
        memory_mb: limit of the database engine.
        threads: threads of the database engine.
    """
    stages = dict(zip(STAGES, map(_by_slide, (manifests, annotations, tissue, quality)), strict=True))
    with atomic_file(path) as aside, tempfile.TemporaryDirectory(dir=aside.parent, prefix=".duckdb-") as spill:
        settings = {"memory_limit": f"{memory_mb}MB", "threads": threads, "temp_directory": spill}
        with duckdb.connect(aside, config=settings) as base:
            # Keeping files in order would buffer them whole; rows carry slide and position instead.
            base.execute("SET preserve_insertion_order = false")
            base.execute("SET enable_progress_bar = false")
            base.execute(f"CREATE TYPE slide AS ENUM ({_literals(sorted(stages['convert']))})")
            base.execute(f"CREATE TYPE exclusion AS ENUM ({_literals(REASONS)})")
            _add(base, "slides", _slides(stages, sheet))
            _add(base, "annotations", _annotations(stages["annotate"].values()))
            _add(base, "quarantine", _quarantine(stages))
            _add_splits(base, splits)
            for grid, files in tables.items():
                _add_patches(base, grid, files)
            for task, files in predictions.items():
                _add_predictions(base, task, files)
            base.execute("CHECKPOINT")


def _by_slide(paths: Iterable[Path | str]) -> dict[str, Record]:
    return {record["slide_id"]: record for record in map(read_json, paths)}


def _literals(values: Iterable[object]) -> str:
    """SQL string literals; statements that name files or types cannot take bound parameters."""
    return ", ".join("'" + str(value).replace("'", "''") + "'" for value in values)


def _add(base: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    base.register("incoming", rows)
    typed = "* REPLACE (slide_id::slide AS slide_id)"
    base.execute(f"CREATE TABLE {name} AS SELECT {typed} FROM incoming ORDER BY slide_id")  # noqa: S608
    base.unregister("incoming")


def _slides(stages: Mapping[str, Mapping[str, Record]], sheet: Iterable[SheetRow]) -> pa.Table:
    """One row per slide: the sheet's columns, the manifest's, and figures of tissue and quality (null if missing)."""
    people = {slide: (patient, site, labels) for slide, patient, site, labels in sheet}
    label_columns = sorted({column for _, _, labels in people.values() for column in labels})
    rows: list[Record] = []
    for slide, manifest in stages["convert"].items():
        patient, site, labels = people.get(slide, (None, None, {}))
        row: Record = {"slide_id": slide, "patient_id": patient, "site": site}
        row |= {f"label_{column}": labels.get(column) for column in label_columns}
        row |= {column: manifest.get(column) for column in MANIFEST_COLUMNS}
        found = stages["presegment"].get(slide, {})
        row |= {f"tissue_{column}": found.get(column) for column in TISSUE_COLUMNS}
        judged = stages["quality"].get(slide, {})
        row |= {f"{name}_share": judged.get("shares", {}).get(name) for name in ARTEFACTS}
        rows.append(row | {"sharpness": judged.get("sharpness")})
    texts = ("slide_id", "patient_id", "site", *(f"label_{column}" for column in label_columns))
    fields = dict.fromkeys(texts, pa.string()) | MANIFEST_COLUMNS
    fields |= {f"tissue_{column}": kind for column, kind in TISSUE_COLUMNS.items()}
    fields |= dict.fromkeys((*(f"{name}_share" for name in ARTEFACTS), "sharpness"), pa.float64())
    return pa.Table.from_pylist(rows, schema=pa.schema(list(fields.items())))


def _annotations(records: Iterable[Record]) -> pa.Table:
    """One row per slide and annotated class; area in level-0 pixels. Masks count pixels, not regions."""
    rows = [
        {
            "slide_id": record["slide_id"],
            "class": name,
            "regions": record["regions"].get(name),
            "area_px": area,
            "format": record["format"],
            "source": record["source"],
        }
        for record in records
        if record["status"] == "ok"
        for name, area in record.get("area_px", {}).items()
    ]
    fields = [(name, pa.string()) for name in ("slide_id", "class", "format", "source")]
    fields[2:2] = [("regions", pa.int64()), ("area_px", pa.float64())]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def _quarantine(stages: Mapping[str, Mapping[str, Record]]) -> pa.Table:
    entries = collect({"stage": stage, **record} for stage in STAGES for record in stages[stage].values())
    schema = pa.schema([(name, pa.string()) for name in QUARANTINE_COLUMNS])
    return pa.Table.from_pylist([{name: e.get(name) for name in QUARANTINE_COLUMNS} for e in entries], schema=schema)


def _add_splits(base: duckdb.DuckDBPyConnection, splits: Mapping[str, Path | str]) -> None:
    base.execute("CREATE TABLE splits (task VARCHAR, fold SMALLINT, slide_id slide, patient_id VARCHAR, role VARCHAR)")
    for task, file in splits.items():
        columns = "fold, slide_id, patient_id, role"
        base.execute(f"INSERT INTO splits SELECT ?, {columns} FROM read_parquet(?)", [task, str(file)])  # noqa: S608


def _add_patches(base: duckdb.DuckDBPyConnection, grid: str, files: Sequence[Path | str]) -> None:
    """``patches_<grid>``, ``patches_<grid>_kept`` and ``class_balance_<grid>``.

    Slide and reason are ENUMs: two bytes and one a row, and grouped without hashing strings.
    """
    if not files:
        return
    typed = "* EXCLUDE (filename) REPLACE (excluded::exclusion AS excluded)"
    base.execute(
        f"CREATE TABLE patches_{grid} AS "  # noqa: S608
        f"SELECT parse_filename(filename, true)::slide AS slide_id, {typed} FROM {_parquet(files)}"
    )
    base.execute(f"CREATE VIEW patches_{grid}_kept AS FROM patches_{grid} WHERE excluded = ''")
    columns = [c for (c, *_) in base.execute(f"DESCRIBE patches_{grid}").fetchall() if c.startswith("area_")]
    if columns:
        base.execute(
            f"CREATE VIEW class_balance_{grid} AS "  # noqa: S608
            "SELECT task, fold, role, class[6:] AS class, count(DISTINCT slide_id) AS slides, "
            "count(DISTINCT patient_id) AS patients, count(*) AS patches, sum(share) AS patch_areas "
            f"FROM (UNPIVOT patches_{grid}_kept ON {', '.join(columns)} INTO NAME class VALUE share) "
            "JOIN splits USING (slide_id) WHERE share > 0 GROUP BY ALL ORDER BY ALL"
        )


def _add_predictions(base: duckdb.DuckDBPyConnection, task: str, files: Sequence[Path | str]) -> None:
    """``predictions_<task>``: fold and slide come from each file's place, everything else from its columns."""
    if not files:
        return
    fold = r"regexp_extract(filename, 'fold(\d+)[/\\][^/\\]+$', 1)::SMALLINT"
    base.execute(
        f"CREATE TABLE predictions_{task} AS SELECT {fold} AS fold, "  # noqa: S608
        f"parse_filename(filename, true)::slide AS slide_id, * EXCLUDE (filename) FROM {_parquet(files)}"
    )


def _parquet(files: Sequence[Path | str]) -> str:
    return f"read_parquet([{_literals(files)}], filename = true)"
