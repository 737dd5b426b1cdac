"""Query the catalog of a run with SQL (DuckDB). The catalog is opened for reading only.

Without a statement, statements are read from the terminal or from standard input, each ended with a semicolon.
config/README.md describes the tables.

examples:
  histomake shell
  histomake shell "SELECT excluded, count(*) FROM patches_x20 GROUP BY 1"
  histomake shell --results results/demo < query.sql
"""

from __future__ import annotations

import argparse
import sys

import duckdb

from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.cli import add_results

PROMPT, CONTINUED = "catalog> ", "    ...> "


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument("sql", nargs="?", help="a statement (default: read statements)")
    add_results(command)


def run(options: argparse.Namespace) -> int:
    """Run the statement, or the statements that are typed or piped in."""
    catalog = Layout(options.results).catalog
    if not catalog.is_file():
        raise HistomakeError(f"{catalog} does not exist: run the workflow first, or name the folder with --results")
    with duckdb.connect(str(catalog), read_only=True) as connection:
        if options.sql:
            return _show(connection, options.sql)
        if not sys.stdin.isatty():
            return _show(connection, sys.stdin.read())
        _show(connection, "SHOW TABLES")
        return _converse(connection)


def _converse(connection: duckdb.DuckDBPyConnection) -> int:
    """Read statements from the terminal until its end (Ctrl-D); a failing one does not end the session."""
    pending = ""
    while True:
        try:
            pending += input(CONTINUED if pending else PROMPT) + "\n"
        except EOFError:
            print()
            return 0
        if pending.rstrip().endswith(";"):
            _show(connection, pending)
            pending = ""


def _show(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    """Print what each statement returns, up to the first that fails; returns the exit status."""
    try:
        for statement in connection.extract_statements(sql):
            result = connection.sql(statement.query)
            if result is not None:
                result.show()
    except duckdb.Error as error:
        print(f"histomake: {error}", file=sys.stderr)
        return 1
    return 0
