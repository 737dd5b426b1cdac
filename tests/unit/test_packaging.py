"""The library as a package: what a wheel holds, and that an editable installation gives way to another checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from histomake.version import __version__

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what the build reads, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def build(source: Path, hook: str) -> zipfile.ZipFile:
    """Run one hook of the build backend in ``source``."""
    code = f"from setuptools import build_meta; print(build_meta.{hook}('dist'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(source / "dist" / done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def wheel(source) -> zipfile.ZipFile:
    return build(source, "build_wheel")


def test_a_wheel_holds_every_file_of_the_library(wheel, source):
    library = source / "scripts"
    kinds = {".py", ".js", ".html", ".css"}
    expected = {
        str(p.relative_to(library)) for p in (library / "histomake").rglob("*") if p.is_file() and p.suffix in kinds
    }
    assert expected <= set(wheel.namelist())
    assert "histomake/viewer/viewer.html" in expected


def test_a_wheel_holds_nothing_but_the_library(wheel):
    assert {name.split("/")[0] for name in wheel.namelist()} == {"histomake", f"histomake-{__version__}.dist-info"}


def test_an_editable_installation_is_a_hook_that_is_asked_last(source):
    editable = build(source, "build_editable")
    path_file = next(name for name in editable.namelist() if name.endswith(".pth"))
    assert editable.read(path_file).startswith(b"import "), "a path would stand before what Snakemake appends"
    finder = next(name for name in editable.namelist() if name.endswith("_finder.py"))
    assert b"sys.meta_path.append" in editable.read(finder)


def test_no_script_hides_a_module_of_python_or_of_a_package():
    # The folder of the scripts stands early on the path of every job.
    scripts = {path.stem for path in (ROOT / "scripts").iterdir() if path.suffix == ".py" or path.is_dir()}
    others = set(sys.stdlib_module_names) | set(metadata.packages_distributions())
    assert not (scripts - {"histomake"}) & others
