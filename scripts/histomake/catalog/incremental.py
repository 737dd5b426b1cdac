"""Reuse of rows between builds of the catalog, so that a new slide does not make it read the files of all others."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from histomake.base.file_cache import stamps

BUILD = """
CREATE SCHEMA build;
CREATE TABLE build.sources ("table" VARCHAR, path VARCHAR, size BIGINT, mtime_ns BIGINT, slide VARCHAR, fold SMALLINT);
CREATE TABLE build.code (digest VARCHAR);
"""
"""Information for the next build: the files from which the rows were read, and the code that wrote them."""

SAME = """
SELECT path, fold, enum_code(old.slide_id) AS code, slide::slide AS slide_id
FROM previous.build.sources SEMI JOIN build.sources USING ("table", path, size, mtime_ns)
JOIN previous.slides old ON old.slide_id::VARCHAR = slide
"""
"""Unchanged files and the ENUM number of each slide in the previous catalog. Joins use the number, not the name."""

SLIDE = "parse_filename(filename, true)::slide AS slide_id"
FOLD = r"nullif(regexp_extract({path}, 'fold(\d+)[/\\][^/\\]+$', 1), '')::SMALLINT"
"""SQL expressions for slide and fold of a file, from its name and folder."""

log = logging.getLogger(__name__)


def literals(values: Iterable[object]) -> str:
    """Return SQL string literals; statements that name files or types do not support bound parameters."""
    return ", ".join("'" + str(value).replace("'", "''") + "'" for value in values)


class IncrementalBuild:
    """The catalog being built and, if its rows can be reused, the previous one.

    Rows of a file are reused if its size and modification time are unchanged and the code is the same. The previous
    catalog is a hard link to the file that users see, and may be modified with it: the caller removes one whose digest
    is not that of the last run (`histomake.audit.caches`). Its own modification time says nothing, because Snakemake
    sets that of every output after the job.

    Args:
        base: The catalog being built.
        previous: Where the last build kept its catalog; None to read every file and keep nothing.
        code: Digest of the current code.
        check: Called with the files of a table that will be read, before they are.
    """

    def __init__(
        self,
        base: duckdb.DuckDBPyConnection,
        previous: Path | None,
        code: str,
        *,
        check: Callable[[Sequence[str]], object] = lambda paths: None,
    ) -> None:
        self.base, self.previous, self.code, self.check = base, previous, code, check
        base.execute(BUILD)
        base.execute("INSERT INTO build.code VALUES (?)", [code])
        self._attached = self._attach()

    def _attach(self) -> bool:
        if self.previous is None or not self.previous.is_file():
            return False
        try:
            self.base.execute(f"ATTACH {literals([self.previous])} AS previous (READ_ONLY)")
            if self.base.execute("SELECT digest FROM previous.build.code").fetchall() == [(self.code,)]:
                return True
            self.base.execute("DETACH previous")
        except duckdb.Error as error:
            log.warning("%s cannot be used (%s); reading all files", self.previous, error)
        return False

    def fill(
        self, table: str, files: Sequence[Path | str], columns: str, retyped: str = "", *, by_fold: bool = False
    ) -> None:
        """Create ``table`` from Parquet files.

        Args:
            table: Name of the table.
            files: Parquet files.
            columns: SELECT list for a file.
            retyped: SQL that replaces columns of the previous catalog, whose ENUM types differ.
            by_fold: Whether there is one file per slide and fold instead of one per slide.
        """
        names = list(map(str, files))
        self._record_sources(table, names)
        kept = self._copy_unchanged(table, retyped, by_fold=by_fold) if self._attached else set()
        changed = [name for name in names if name not in kept]
        if changed:
            self.check(changed)
            start = f"INSERT INTO {table} BY NAME" if kept else f"CREATE TABLE {table} AS"
            source = f"read_parquet([{literals(changed)}], filename = true)"
            self.base.execute(f"{start} SELECT {columns} FROM {source}")  # noqa: S608
        log.info("%s: read %d of %d files", table, len(changed), len(names))

    def _record_sources(self, table: str, names: list[str]) -> None:
        found = stamps(names)
        sizes, times = ([stamp and stamp[i] for stamp in found] for i in range(2))
        columns = {"path": names, "size": pa.array(sizes, pa.int64()), "mtime_ns": pa.array(times, pa.int64())}
        self.base.register("incoming", pa.table(columns))
        place = f"parse_filename(path, true), {FOLD.format(path='path')}"
        self.base.execute(f"INSERT INTO build.sources SELECT ?, *, {place} FROM incoming", [table])  # noqa: S608
        self.base.unregister("incoming")

    def _copy_unchanged(self, table: str, retyped: str, *, by_fold: bool) -> set[str]:
        """Create the table from the rows of unchanged files in the previous catalog; return these files."""
        self.base.execute(f'CREATE OR REPLACE TEMP TABLE kept AS {SAME} WHERE "table" = ?', [table])
        kept = {path for (path,) in self.base.execute("SELECT path FROM kept").fetchall()}
        if kept:
            fold = "AND old.fold = kept.fold" if by_fold else ""
            self.base.execute(
                f"CREATE TABLE {table} AS SELECT old.* REPLACE (kept.slide_id AS slide_id{retyped}) "  # noqa: S608
                f"FROM previous.{table} old JOIN kept ON enum_code(old.slide_id) = kept.code {fold}"
            )
        return kept

    def detach_previous(self) -> None:
        """Detach the previous catalog."""
        if self._attached:
            self.base.execute("DETACH previous")

    def keep(self, path: Path) -> None:
        """Keep the finished catalog for the next build: as a hard link, or as a copy if links are not supported."""
        if self.previous is None:
            return
        self.previous.parent.mkdir(parents=True, exist_ok=True)
        self.previous.unlink(missing_ok=True)
        try:
            os.link(path, self.previous)
        except OSError:
            shutil.copyfile(path, self.previous)
