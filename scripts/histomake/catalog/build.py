"""The catalog: one DuckDB file for queries about the cohort's slides, patches, splits and predictions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from histomake.base.file_cache import FileCache
from histomake.base.files import atomic_file
from histomake.base.records.annotation import AnnotationRecord
from histomake.base.records.graph import EDGE_ABLATIONS
from histomake.base.records.manifest import Manifest
from histomake.base.records.quality import QualityRecord
from histomake.base.records.record import Quarantined, StageRecord
from histomake.base.records.tissue import TissueRecord
from histomake.catalog.generators import generator_tables
from histomake.catalog.incremental import FOLD, SLIDE, IncrementalBuild, literals
from histomake.catalog.metrics import metric_tables
from histomake.catalog.outliers import outlier_table
from histomake.catalog.readers import reader_tables
from histomake.catalog.transfers import transfer_tables
from histomake.cohort.quarantine import collect
from histomake.patch.table import REASONS

Row = dict[str, object]
DuckdbSettings = dict[str, str | bool | int | float | list[str]]
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
    "tiles": pa.string(),
}
TISSUE_COLUMNS = {
    "area_mm2": pa.float64(),
    "components": pa.int64(),
    "coverage": pa.float64(),
    "faint_mm2": pa.float64(),
    "method": pa.string(),
}
ARTEFACTS = ("pen", "blur", "fold")
QUARANTINE_COLUMNS = ("slide_id", "task", "stage", "reason", "path", "detail", "remedy")


class Records(NamedTuple):
    """The records of all slides, by stage and slide."""

    manifests: Mapping[str, Manifest | Quarantined]
    annotations: Mapping[str, AnnotationRecord | Quarantined]
    tissue: Mapping[str, TissueRecord | Quarantined]
    quality: Mapping[str, QualityRecord | Quarantined]


def by_slide[R: StageRecord | Quarantined](records: Iterable[R]) -> dict[str, R]:
    """Records by their slide."""
    return {record.slide_id: record for record in records}


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
    damage: Mapping[str, Path | str] | None = None,
    metrics: Mapping[str, Path | str] | None = None,
    cores: Sequence[Path | str] = (),
    cells: Mapping[str, Sequence[Path | str]] | None = None,
    graphs: Mapping[str, Sequence[Path | str]] | None = None,
    transfers: Sequence[Path | str] = (),
    generators: Sequence[Path | str] = (),
    cascades: Mapping[str, Sequence[Path | str]] | None = None,
    sheet: Iterable[SheetRow] = (),
    cache: FileCache | None = None,
    previous: Path | None = None,
    code: str = "",
    memory_mb: int = 4000,
    threads: int = 2,
) -> None:
    """Build the catalog in a temporary file and move it to ``path`` when it is complete.

    Parquet files are streamed, so memory stays near ``memory_mb`` for a cohort of any size. Rows of files that are
    unchanged since the previous build are copied from its catalog. They are identical, and thousands of files need
    not be opened.

    Args:
        path: The DuckDB file.
        manifests, tissue, quality, annotations: JSON records per slide; quarantined ones fill ``quarantine``.
        tables: Patch tables ``{slide}.parquet`` by grid.
        splits: Split file by task.
        predictions: Prediction files ``fold{k}/{slide}.parquet`` by task.
        damage: List of the slides whose damage was met by a task only, by task.
        metrics: Metrics record by task, of tasks with test slides.
        cores: Tables of cores ``{slide}.parquet``.
        cells: Cell tables ``{slide}.parquet`` by name.
        graphs: Statistics of graphs ``{slide}.parquet`` by name.
        transfers: Measures of stain transfers.
        generators: Measures of generators.
        cascades: Predictions of patch cascades ``fold{k}/{slide}.parquet`` by name.
        sheet: slide_id, patient_id, site, and labels and subgroups by column of every slide.
        cache: Cache of the records read by the previous build.
        previous: Where the previous build kept its catalog, and where this build keeps its own for the next.
        code: Digest of the code; rows written by other code are not reused.
        memory_mb: Memory limit of the database engine.
        threads: Number of threads of the database engine.
    """
    cache = cache or FileCache()
    records = Records(
        by_slide(cache.read_records(manifests, Manifest.decode)),
        by_slide(cache.read_records(annotations, AnnotationRecord.decode)),
        by_slide(cache.read_records(tissue, TissueRecord.decode)),
        by_slide(cache.read_records(quality, QualityRecord.decode)),
    )
    with atomic_file(path) as aside, tempfile.TemporaryDirectory(dir=aside.parent, prefix=".duckdb-") as spill:
        settings: DuckdbSettings = {"memory_limit": f"{memory_mb}MB", "threads": threads, "temp_directory": spill}
        with duckdb.connect(aside, config=settings) as base:
            # Preserving the order would buffer whole files. Rows contain slide and position instead.
            base.execute("SET preserve_insertion_order = false")
            base.execute("SET enable_progress_bar = false")
            base.execute(f"CREATE TYPE slide AS ENUM ({literals(sorted(records.manifests))})")
            base.execute(f"CREATE TYPE exclusion AS ENUM ({literals(REASONS)})")
            build = IncrementalBuild(base, previous, code, check=cache.check)
            _add(base, "slides", _slides(records, sheet))
            _add(base, "annotations", _annotations(records.annotations.values()))
            for name, rows in reader_tables(records.annotations, records.manifests).items():
                _add(base, name, rows)
            _add(base, "outliers", outlier_table(records.quality, records.tissue))
            _add(base, "quarantine", _quarantine(records, damage or {}))
            _add_splits(base, splits)
            measured = metric_tables(metrics or {}) | transfer_tables(transfers) | generator_tables(generators)
            for name, rows in measured.items():
                _add_rows(base, name, rows)
            for grid, files in tables.items():
                _add_patches(build, grid, files)
            for task, files in predictions.items():
                _add_predictions(build, task, files)
            _add_rows_of_slides(build, "cores", cores)
            for name, files in (cells or {}).items():
                _add_rows_of_slides(build, f"cells_{name}", files)
            for name, files in (graphs or {}).items():
                _add_rows_of_slides(build, f"graph_{name}", files)
            for name, files in (cascades or {}).items():
                _add_rows_of_folds(build, f"cascade_{name}", files)
            build.detach_previous()
            base.execute("CHECKPOINT")
    build.keep(Path(path))


def _add(base: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    base.register("incoming", rows)
    typed = "* REPLACE (slide_id::slide AS slide_id)"
    base.execute(f"CREATE TABLE {name} AS SELECT {typed} FROM incoming ORDER BY slide_id")  # noqa: S608
    base.unregister("incoming")


def _add_rows(base: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    """Create a table whose rows are not about single slides."""
    base.register("incoming", rows)
    base.execute(f"CREATE TABLE {name} AS FROM incoming ORDER BY ALL")
    base.unregister("incoming")


def _slides(records: Records, sheet: Iterable[SheetRow]) -> pa.Table:
    """Return one row per slide with columns of the sheet, the manifest, tissue and quality; null if missing."""
    people = {slide: (patient, site, labels) for slide, patient, site, labels in sheet}
    label_columns = sorted({column for _, _, labels in people.values() for column in labels})
    rows: list[Row] = []
    for slide, manifest in records.manifests.items():
        patient, site, labels = people.get(slide, (None, None, {}))
        row: Row = {"slide_id": slide, "patient_id": patient, "site": site}
        row |= {f"label_{column}": labels.get(column) for column in label_columns}
        row |= _of_manifest(manifest)
        annotation = records.annotations.get(slide)
        row["annotation_format"] = getattr(annotation, "annotation_format", None)
        tissue, quality = records.tissue.get(slide), records.quality.get(slide)
        row |= {f"tissue_{column}": getattr(tissue, column, None) for column in TISSUE_COLUMNS}
        shares = quality.shares if isinstance(quality, QualityRecord) else {}
        row |= {f"{name}_share": shares.get(name) for name in ARTEFACTS}
        rows.append(row | {name: getattr(quality, name, None) for name in ("clean_share", "sharpness")})
    texts = ("slide_id", "patient_id", "site", *(f"label_{column}" for column in label_columns))
    fields = dict.fromkeys(texts, pa.string()) | MANIFEST_COLUMNS
    fields |= {f"tissue_{column}": kind for column, kind in TISSUE_COLUMNS.items()}
    fields |= dict.fromkeys((*(f"{name}_share" for name in ARTEFACTS), "clean_share", "sharpness"), pa.float64())
    fields["annotation_format"] = pa.string()
    return pa.Table.from_pylist(rows, schema=pa.schema(list(fields.items())))


def _of_manifest(manifest: Manifest | Quarantined) -> Row:
    """Return the columns of the manifest. ``tiles``: "copied", or the codec with which tiles were re-encoded."""
    if isinstance(manifest, Quarantined):
        return {"status": "quarantined"}
    finest = manifest.levels[0]
    tiles = "copied" if finest.passthrough else finest.codec
    derived = {"status": "ok", "format": manifest.slide_format, "tiles": tiles}
    return derived | {column: getattr(manifest, column) for column in MANIFEST_COLUMNS if column not in derived}


def _annotations(records: Iterable[AnnotationRecord | Quarantined]) -> pa.Table:
    """Return one row per slide and annotated class. Areas are in level-0 pixels; masks have no number of regions."""
    rows = [
        {
            "slide_id": record.slide_id,
            "class": name,
            "regions": record.regions.get(name),
            "area_px": area,
            "format": record.annotation_format,
            "source": record.source,
        }
        for record in records
        if isinstance(record, AnnotationRecord)
        for name, area in record.area_px.items()
    ]
    fields = [(name, pa.string()) for name in ("slide_id", "class", "format", "source")]
    fields[2:2] = [("regions", pa.int64()), ("area_px", pa.float64())]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def _quarantine(records: Records, damage: Mapping[str, Path | str]) -> pa.Table:
    """Slides in quarantine, with ``task`` null, and those that only a task lacks, because it met their damage."""
    stages = (records.manifests, records.annotations, records.tissue, records.quality)
    entries = [
        {"task": None, **entry.dump()} for entry in collect(record for stage in stages for record in stage.values())
    ]
    entries += [
        {"task": task, **entry.dump()} for task, path in damage.items() for entry in Quarantined.read_list(path)
    ]
    schema = pa.schema([(name, pa.string()) for name in QUARANTINE_COLUMNS])
    return pa.Table.from_pylist([{name: e[name] for name in QUARANTINE_COLUMNS} for e in entries], schema=schema)


def _add_splits(base: duckdb.DuckDBPyConnection, splits: Mapping[str, Path | str]) -> None:
    base.execute("CREATE TABLE splits (task VARCHAR, fold SMALLINT, slide_id slide, patient_id VARCHAR, role VARCHAR)")
    for task, file in splits.items():
        columns = "fold, slide_id, patient_id, role"
        base.execute(f"INSERT INTO splits SELECT ?, {columns} FROM read_parquet(?)", [task, str(file)])  # noqa: S608


def _add_patches(build: IncrementalBuild, grid: str, files: Sequence[Path | str]) -> None:
    """Create ``patches_<grid>``, ``patches_<grid>_kept`` and ``class_balance_<grid>``.

    Slide and reason are ENUMs, which take two bytes and one byte per row and are grouped without hashing strings.
    """
    if not files:
        return
    base = build.base
    build.fill(
        f"patches_{grid}",
        files,
        f"{SLIDE}, * EXCLUDE (filename) REPLACE (excluded::exclusion AS excluded)",
        ", old.excluded::VARCHAR::exclusion AS excluded",
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


def _add_predictions(build: IncrementalBuild, task: str, files: Sequence[Path | str]) -> None:
    """Create ``predictions_<task>``."""
    if files:
        _add_rows_of_folds(build, f"predictions_{task}", files)
        _add_bags(build.base, task)


def _add_rows_of_folds(build: IncrementalBuild, table: str, files: Sequence[Path | str]) -> None:
    """Create a table of the rows of all files, with fold and slide from each file's path."""
    if files:
        columns = f"{FOLD.format(path='filename')} AS fold, {SLIDE}, * EXCLUDE (filename)"
        build.fill(table, files, columns, by_fold=True)


def _add_rows_of_slides(build: IncrementalBuild, table: str, files: Sequence[Path | str]) -> None:
    """Create a table of the rows of all files, with the slide from each file's name."""
    if files:
        build.fill(table, files, f"{SLIDE}, * EXCLUDE (filename)")


def _add_bags(base: duckdb.DuckDBPyConnection, task: str) -> None:
    """Create the view ``bags_<task>``, a row per slide that is predicted as, or as a part of, a bag of patches.

    ``attention`` is the slide's part of the attention of the bag: 1 if the slide is a bag.
    """
    columns = [c for (c, *_) in base.execute(f'DESCRIBE "predictions_{task}"').fetchall()]
    if "attention" not in columns:
        return
    starts = tuple(f"{name}_" for name in ("score", "linear", "target", *EDGE_ABLATIONS))
    same = [c for c in columns if c.startswith(starts) or c in ("predicted", "label")]
    base.execute(
        f'CREATE VIEW "bags_{task}" AS SELECT fold, slide_id, any_value(patient_id) AS patient_id, '  # noqa: S608
        "count(*) AS patches, sum(attention) AS attention, "
        + ", ".join(f'any_value("{column}") AS "{column}"' for column in same)
        + f' FROM "predictions_{task}" JOIN slides USING (slide_id) GROUP BY fold, slide_id ORDER BY fold, slide_id'
    )
