"""`histomake init`: the files of a new project."""

from __future__ import annotations

import pytest
from histomake import cli
from histomake.base.errors import ConfigError
from histomake.cli.checkout import CHECKOUT
from histomake.cohort.sheet import read_sheet
from histomake.config import load_config


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A new project, and the working folder in it."""
    assert cli.main(["init", str(tmp_path / "cohort")]) == 0
    monkeypatch.chdir(tmp_path / "cohort")
    return tmp_path / "cohort"


def test_the_configuration_is_valid_and_the_sheet_lacks_only_slides(project):
    config = load_config("config/config.yaml")
    with pytest.raises(ConfigError, match=r"1 problem\(s\):\n  the sheet has no rows$"):
        read_sheet(config.sheet, config, check_files=True)


def test_the_snakefile_uses_this_checkout(project):
    assert f'"{CHECKOUT}/Snakefile"' in (project / "Snakefile").read_text()


def test_the_settings_every_run_needs_are_there(project):
    profile = "profiles/default/profile.v9+.yaml"
    assert (project / profile).read_text() == (CHECKOUT / profile).read_text()


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, capsys):
    own = tmp_path / "cohort" / "config" / "slides.tsv"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    assert cli.main(["init", str(tmp_path / "cohort")]) == 1
    assert "already has config/slides.tsv" in capsys.readouterr().err
    assert [path for path in (tmp_path / "cohort").rglob("*") if path.is_file()] == [own]
    assert own.read_text() == "mine"
