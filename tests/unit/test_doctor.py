"""`histomake doctor`: every check in the state it is for, and the exit status."""

from __future__ import annotations

import fcntl
import shutil
from collections import namedtuple
from importlib import metadata

import pytest
from histomake import cli
from histomake.base.layout import Layout
from histomake.cli import doctor, machine_checks, project_checks
from histomake.cli.checkout import CHECKOUT
from histomake.cli.findings import State, ok, problem, warning
from histomake.cohort.sheet import Slide

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A valid project of one slide, and the working folder in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slide.svs").write_bytes(b"x" * 1000)
    (tmp_path / "slides.tsv").write_text("slide_id\tpath\tpatient_id\nS1\tslide.svs\tP1\n")
    (tmp_path / "config.yaml").write_text("sheet: slides.tsv\n")
    return tmp_path


def states(findings):
    return {finding.subject: finding.state for finding in findings}


def test_a_valid_project_has_no_problem(project):
    found = states(project_checks.project(project / "config.yaml"))
    assert found == dict.fromkeys(("configuration", "sheet", "disk", "file locks", "Snakemake"), State.OK)


def test_a_wrong_key_is_a_problem_and_ends_the_checks_of_the_project(project):
    (project / "config.yaml").write_text("sheets: slides.tsv\n")
    (found,) = project_checks.project(project / "config.yaml")
    assert found.state == State.PROBLEM
    assert "sheets" in found.detail


def test_a_missing_slide_is_a_problem_of_the_sheet(project):
    (project / "slide.svs").unlink()
    assert states(project_checks.project(project / "config.yaml"))["sheet"] == State.PROBLEM


def test_a_cohort_that_cannot_be_divided_is_a_problem_of_the_plan(project):
    (project / "config.yaml").write_text(
        "sheet: slides.tsv\nannotations: {classes: {T: t, N: n}}\n"
        "tasks: {one: {grid: x20, target: {classes: [t, n]}}}\n"
    )
    assert states(project_checks.project(project / "config.yaml"))["plan"] == State.PROBLEM


def test_a_note_on_the_plan_is_a_warning(project):
    for number in range(8):
        (project / f"s{number}").touch()
    rows = "".join(f"S{n}\ts{n}\tP{n}\t{'ab'[n > 6]}\n" for n in range(8))
    (project / "slides.tsv").write_text("slide_id\tpath\tpatient_id\tsite\n" + rows)
    (project / "config.yaml").write_text(
        "sheet: slides.tsv\nannotations: {classes: {T: t, N: n}}\n"
        "tasks: {one: {grid: x20, target: {classes: [t, n]}, split: {stratify: [site]}, model: {pretrained: true}}}\n"
    )
    assert states(project_checks.project(project / "config.yaml"))["plan"] == State.WARNING


def test_missing_weights_are_a_problem(project):
    encoder = "encoders: {e: {grid: x20, name: 'folder:encoders/e'}}"
    (project / "config.yaml").write_text(f"sheet: slides.tsv\ngrids: {{x20: {{mpp: 0.5}}}}\n{encoder}\n")
    assert states(project_checks.project(project / "config.yaml"))["weights"] == State.PROBLEM


def test_too_little_room_for_the_slides_to_convert_is_a_problem(project, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10_000, 9_000, 1_000))
    slide, layout = Slide("S1", "slide.svs", "P1"), Layout(project / "results")
    assert project_checks.room(layout, [slide]).state == State.PROBLEM
    layout.manifest("S1").parent.mkdir(parents=True)
    layout.manifest("S1").write_text("{}")
    assert project_checks.room(layout, [slide]).state == State.OK


def test_a_file_system_without_locks_is_a_problem(project, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert "No locks available" in project_checks.file_locks(Layout(project / "results")).detail


def test_a_folder_that_a_run_holds_is_a_warning(tmp_path):
    (tmp_path / "0.input.lock").write_text("")
    assert "snakemake --unlock" in project_checks.working_folder(tmp_path).remedy


def test_a_missing_package_is_a_problem_and_another_version_a_warning(tmp_path):
    lock = tmp_path / "requirements.txt"
    version = metadata.version("numpy")
    lock.write_text(f"numpy=={version} \\\n    --hash=sha256:00\n    # via histomake\n")
    assert machine_checks.packages(lock).state == State.OK
    lock.write_text("numpy==0.1 \\\n")
    assert machine_checks.packages(lock) == warning(
        "packages", f"other versions than tested: numpy {version} (lock: 0.1)", "make env"
    )
    lock.write_text("no-such-package==1.0\n")
    assert machine_checks.packages(lock) == problem("packages", "not installed: no-such-package", "make env")


def test_a_tmpdir_that_does_not_exist_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    assert machine_checks.temporary_folder().state == State.PROBLEM


@pytest.mark.parametrize(
    ("link", "slurm", "state"),
    [
        (None, None, State.OK),
        (None, "/usr/bin/sbatch", State.PROBLEM),
        ("slurm", "/usr/bin/sbatch", State.OK),
        ("default", None, State.WARNING),
    ],
)
def test_the_slurm_profile_is_needed_where_there_is_a_slurm(tmp_path, monkeypatch, link, slurm, state):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: slurm)
    if link:
        (tmp_path / "snakemake").mkdir()
        (tmp_path / "snakemake" / "slurm").symlink_to(CHECKOUT / "profiles" / link)
    assert machine_checks.slurm_profile().state == state


def test_a_missing_openseadragon_is_a_warning(tmp_path):
    assert machine_checks.viewer_assets(tmp_path / "missing.js").state == State.WARNING


@pytest.mark.parametrize(
    ("finding", "status"), [(ok("x", "y"), 0), (warning("x", "y", "do"), 0), (problem("x", "y", "do"), 1)]
)
def test_only_problems_make_the_exit_status_1(project, monkeypatch, capsys, finding, status):
    monkeypatch.setattr(doctor, "MACHINE", (lambda: finding,))
    assert cli.main(["doctor", "--configfile", "config.yaml"]) == status
    printed = capsys.readouterr().out
    assert printed.startswith(str(finding))
    assert printed.splitlines()[-1].startswith(f"{status} problem(s)")
