"""Owns what one build of the catalog leaves to the next, so that a new slide does not open the files of all others."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from histomake.base.file_cache import stamps

BUILD = """
CREATE SCHEMA build;
CREATE TABLE build.sources ("table" VARCHAR, path VARCHAR, size BIGINT, mtime_ns BIGINT, slide VARCHAR, fold SMALLINT);
CREATE TABLE build.code (digest VARCHAR);
"""
"""What the next build must know of this one: which files its rows came from, and which code wrote them."""

SAME = """
SELECT path, fold, enum_code(old.slide_id) AS code, slide::slide AS slide_id
FROM previous.build.sources SEMI JOIN build.sources USING ("table", path, size, mtime_ns)
JOIN previous.slides old ON old.slide_id::VARCHAR = slide
"""
"""Unchanged files, and the number that each one's slide had before: rows are told apart by it, without their names."""

SLIDE = "parse_filename(filename, true)::slide AS slide_id"
FOLD = r"nullif(regexp_extract({path}, 'fold(\d+)[/\\][^/\\]+$', 1), '')::SMALLINT"
"""Slide and fold of a file, which its name and its folder tell."""

log = logging.getLogger(__name__)


def literals(values: Iterable[object]) -> str:
    """SQL string literals; statements that name files or types cannot take bound parameters."""
    return ", ".join("'" + str(value).replace("'", "''") + "'" for value in values)


class Growth:
    """The catalog being built and, if its rows may be taken over, the one before.

    Rows of a file are taken over when the file has the size and time it was read with, and the code is the same. The
    previous catalog is a second name of the file that users see; once somebody has written into it, it is not used.

    Args:
        base: the catalog being built.
        previous: where the last build left its catalog; None to read every file and leave nothing.
        code: digest of the code that builds.
    """

    def __init__(self, base: duckdb.DuckDBPyConnection, previous: Path | None, code: str) -> None:
        self.base, self.previous, self.code = base, previous, code
        base.execute(BUILD)
        base.execute("INSERT INTO build.code VALUES (?)", [code])
        self._attached = self._attach()

    def _attach(self) -> bool:
        if self.previous is None or not self.previous.is_file():
            return False
        stamp = self._stamp_file
        if not stamp.is_file() or stamp.read_text() != self._stamp():
            log.warning("%s was written to since it was built; every file is read", self.previous)
            return False
        try:
            self.base.execute(f"ATTACH {literals([self.previous])} AS previous (READ_ONLY)")
            if self.base.execute("SELECT digest FROM previous.build.code").fetchall() == [(self.code,)]:
                return True
            self.base.execute("DETACH previous")
        except duckdb.Error as error:
            log.warning("%s is unusable (%s); every file is read", self.previous, error)
        return False

    @property
    def _stamp_file(self) -> Path:
        return self.previous.with_suffix(".stamp")

    def _stamp(self) -> str:
        return repr(stamps([str(self.previous)])[0])

    def fill(
        self, table: str, files: Sequence[Path | str], columns: str, retyped: str = "", *, by_fold: bool = False
    ) -> None:
        """Create ``table`` from Parquet files.

        ``columns`` selects from a file; ``retyped`` replaces columns of the previous catalog, whose types are its own;
        ``by_fold``: a slide has a file per fold.
        """
        names = list(map(str, files))
        self._note_sources(table, names)
        kept = self._take_over(table, retyped, by_fold=by_fold) if self._attached else set()
        changed = [name for name in names if name not in kept]
        if changed:
            start = f"INSERT INTO {table} BY NAME" if kept else f"CREATE TABLE {table} AS"
            source = f"read_parquet([{literals(changed)}], filename = true)"
            self.base.execute(f"{start} SELECT {columns} FROM {source}")  # noqa: S608
        log.info("%s: %d of %d files read", table, len(changed), len(names))

    def _note_sources(self, table: str, names: list[str]) -> None:
        found = stamps(names)
        sizes, times = ([stamp and stamp[i] for stamp in found] for i in range(2))
        columns = {"path": names, "size": pa.array(sizes, pa.int64()), "mtime_ns": pa.array(times, pa.int64())}
        self.base.register("incoming", pa.table(columns))
        place = f"parse_filename(path, true), {FOLD.format(path='path')}"
        self.base.execute(f"INSERT INTO build.sources SELECT ?, *, {place} FROM incoming", [table])  # noqa: S608
        self.base.unregister("incoming")

    def _take_over(self, table: str, retyped: str, *, by_fold: bool) -> set[str]:
        """Create the table from the previous one's rows of unchanged files; returns these files."""
        self.base.execute(f'CREATE OR REPLACE TEMP TABLE kept AS {SAME} WHERE "table" = ?', [table])
        kept = {path for (path,) in self.base.execute("SELECT path FROM kept").fetchall()}
        if kept:
            fold = "AND old.fold = kept.fold" if by_fold else ""
            self.base.execute(
                f"CREATE TABLE {table} AS SELECT old.* REPLACE (kept.slide_id AS slide_id{retyped}) "  # noqa: S608
                f"FROM previous.{table} old JOIN kept ON enum_code(old.slide_id) = kept.code {fold}"
            )
        return kept

    def end(self) -> None:
        """Let go of the previous catalog."""
        if self._attached:
            self.base.execute("DETACH previous")

    def leave(self, path: Path) -> None:
        """Keep the finished catalog for the next build: a second name, or a copy where files have but one."""
        if self.previous is None:
            return
        self.previous.parent.mkdir(parents=True, exist_ok=True)
        self._stamp_file.unlink(missing_ok=True)
        self.previous.unlink(missing_ok=True)
        try:
            os.link(path, self.previous)
        except OSError:
            shutil.copyfile(path, self.previous)
        self._stamp_file.write_text(self._stamp())
