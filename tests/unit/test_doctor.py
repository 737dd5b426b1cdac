"""`histomake doctor`: every check in the state it is for, and the exit status."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections import namedtuple
from importlib import metadata

import cv2
import numpy as np
import pytest
from histomake import cli
from histomake.base.layout import Layout
from histomake.cli import doctor, machine_checks, project_checks
from histomake.cli.checkout import CHECKOUT
from histomake.cli.findings import State, ok, problem, warning
from histomake.cli.slide_checks import readable
from histomake.cohort.sheet import Slide
from histomake.config import Convert
from histomake.slide.codec import TileCoding, TileDecodeError

Usage = namedtuple("Usage", "total used free")


def write_slide(path):
    cv2.imwrite(str(path), np.full((64, 64, 3), 200, np.uint8))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A valid project of one slide, and the working folder in it."""
    monkeypatch.chdir(tmp_path)
    write_slide(tmp_path / "slide.png")
    (tmp_path / "slides.tsv").write_text("slide_id\tpath\tpatient_id\tmpp\nS1\tslide.png\tP1\t0.5\n")
    (tmp_path / "config.yaml").write_text("sheet: slides.tsv\n")
    return tmp_path


def states(findings):
    return {finding.subject: finding.state for finding in findings}


def test_a_valid_project_has_no_problem(project):
    found = states(project_checks.project(project / "config.yaml"))
    assert found == dict.fromkeys(
        ("configuration", "sheet", "slides", "disk", "file system", "file locks", "working folder"), State.OK
    )


def test_a_wrong_key_is_a_problem_and_ends_the_checks_of_the_project(project):
    (project / "config.yaml").write_text("sheets: slides.tsv\n")
    (found,) = project_checks.project(project / "config.yaml")
    assert found.state == State.PROBLEM
    assert "sheets" in found.detail


def test_a_missing_slide_is_a_problem_of_the_sheet(project):
    (project / "slide.png").unlink()
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
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10_000, 9_900, 100))
    slide, layout = Slide("S1", "slide.png", "P1"), Layout(project / "results")
    assert project_checks.room(layout, [slide]).state == State.PROBLEM
    layout.manifest("S1").parent.mkdir(parents=True)
    layout.manifest("S1").write_text("{}")
    assert project_checks.room(layout, [slide]).state == State.OK


def test_a_file_system_without_locks_is_a_problem(project, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert "No locks available" in project_checks.file_locks(Layout(project / "results")).detail


def test_slides_are_refused_as_convert_would_refuse_them_and_the_others_are_counted(project):
    (project / "text.svs").write_text("no slide")
    slides = [
        Slide("S1", "slide.png", "P1", mpp=0.5),
        Slide("S2", "slide.png", "P2"),
        Slide("S3", "text.svs", "P3", mpp=0.5),
    ]
    no_mpp, no_format, counted = readable(slides, Convert(), max_share=0.9)
    assert (no_mpp.state, no_mpp.subject, no_mpp.detail.split(":")[0]) == (State.WARNING, "slide S2", "no_mpp")
    assert "mpp column of the slide sheet" in no_mpp.remedy
    assert (no_format.state, no_format.subject, no_format.detail.split(":")[0]) == (
        *(State.WARNING, "slide S3", "unsupported"),
    )
    assert counted == ok("slides", "1 of 3 can be opened and have a resolution")


def test_more_lost_slides_than_a_run_allows_are_a_problem(project):
    *_, found = readable([Slide("S1", "slide.png", "P1")], Convert(), max_share=0.5)
    assert found.state == State.PROBLEM
    assert "1 of 1 slides are in quarantine, more than the 50% allowed" in found.detail


def test_a_slide_without_its_file_is_used_from_its_store_and_not_opened(project):
    assert list(readable([Slide("S1", "gone.svs", "P1")], Convert(), max_share=0)) == [
        ok("slides", "0 of 0 can be opened and have a resolution")
    ]


def test_a_file_system_that_refuses_to_rename_is_a_problem_and_nothing_is_left(project, monkeypatch):
    def refuse(*_):
        raise OSError(5, "Input/output error")

    before = sorted(project.iterdir())
    monkeypatch.setattr("pathlib.Path.replace", refuse)
    found = project_checks.file_system(Layout(project / "results"))
    assert found.state == State.PROBLEM
    assert "Input/output error" in found.detail
    assert sorted(project.iterdir()) == before


def test_a_codec_that_does_not_decode_what_it_encoded_is_a_problem(monkeypatch):
    def refuse(*_):
        raise TileDecodeError("no decoder")

    assert machine_checks.codecs().state == State.OK
    monkeypatch.setattr(TileCoding, "decode", refuse)
    assert "jpeg (no decoder), jpeg2k (no decoder)" in machine_checks.codecs().detail


def test_another_snakemake_than_the_one_whose_internals_are_used_is_a_problem(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda _: ["snakemake-executor-plugin-slurm>=2.8", "snakemake<9,>=8"])
    assert machine_checks.snakemake().state == State.PROBLEM
    monkeypatch.setattr(metadata, "requires", lambda _: ["snakemake>=9"])
    assert machine_checks.snakemake().state == State.OK


def test_slurm_without_its_executor_is_a_problem(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/sbatch")
    assert machine_checks.snakemake().state == State.OK
    monkeypatch.setattr(machine_checks.pkgutil, "iter_modules", lambda: [])
    assert machine_checks.snakemake().state == State.PROBLEM


def test_a_gpu_that_torch_cannot_use_is_explained_by_the_build_or_the_driver():
    driver = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023"
    assert "built without CUDA" in machine_checks.unused_gpu("2.9", None, driver).detail
    found = machine_checks.unused_gpu("2.9", "13.0", driver)
    assert "driver 535.104.05" in found.detail
    assert "driver for CUDA 13.0" in found.remedy


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


def test_findings_are_printed_as_json(project, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "MACHINE", (lambda: problem("x", "y", "do"),))
    assert cli.main(["doctor", "--configfile", "config.yaml", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert (printed["problems"], printed["warnings"]) == (1, 0)
    assert printed["findings"][0] == {"state": "problem", "subject": "x", "detail": "y", "remedy": "do"}
