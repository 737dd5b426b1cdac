"""The command line: its help, its exit statuses, and the commands that need no finished run."""

from __future__ import annotations

import io
import subprocess
import sys
from importlib import metadata

import duckdb
import pytest
from histomake import cli
from histomake.audit.code import SCRIPTS
from histomake.version import __version__


@pytest.fixture
def results(tmp_path):
    """A results folder with a catalog of one table."""
    with duckdb.connect(str(tmp_path / "catalog.duckdb")) as connection:
        connection.sql("CREATE TABLE slides AS SELECT 'S1' AS slide_id, 7 AS patches")
    return tmp_path


def test_the_help_lists_every_command_and_imports_none(tmp_path):
    code = (
        "import sys; from histomake.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    print(sorted({'numpy', 'duckdb', 'pydantic', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(SCRIPTS)}
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert not [name for name in cli.COMMANDS if f"\n    {name}" not in done.stdout]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert text.startswith(f"usage: histomake {command}")
    assert command == "document" or f"\n  histomake {command}" in text, "its docstring gives no example"


def test_the_console_script_is_the_same_program():
    script = next(e for e in metadata.distribution("histomake").entry_points if e.name == "histomake")
    assert script.value == "histomake.cli:main"


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"histomake {__version__}\n"


def test_an_unknown_command_is_a_wrong_command_line(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["crate"])
    assert ended.value.code == 2
    assert "invalid choice: 'crate'" in capsys.readouterr().err


def test_a_statement_is_run_on_the_catalog(results, capsys):
    assert cli.main(["shell", "SELECT patches FROM slides", "--results", str(results)]) == 0
    assert "7" in capsys.readouterr().out


def test_every_piped_statement_is_run(results, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT 'first'; SELECT 'second';"))
    assert cli.main(["shell", "--results", str(results)]) == 0
    shown = capsys.readouterr().out
    assert "first" in shown
    assert "second" in shown


def test_the_catalog_is_not_changed_by_a_statement(results, capsys):
    assert cli.main(["shell", "DROP TABLE slides", "--results", str(results)]) == 1
    assert "read-only" in capsys.readouterr().err


def test_a_missing_catalog_is_an_error_in_one_line(tmp_path, capsys):
    assert cli.main(["shell", "--results", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "run the workflow first" in error


def test_a_pipe_that_is_closed_early_is_not_an_error(results):
    command = f"{sys.executable} -m histomake shell 'SELECT 1' --results {results} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={"PYTHONPATH": str(SCRIPTS)})
    assert done.stderr == ""
