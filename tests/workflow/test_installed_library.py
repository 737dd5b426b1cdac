"""With another copy of the library installed, the jobs run the one beside their scripts, or refuse."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest

from tests.workshop import ROOT, Workshop

MANIFEST = "results/slides/S1.json"


@pytest.fixture
def checkout(tmp_path):
    """A copy of the code with a sheet of one slide."""
    workshop = Workshop(tmp_path / "checkout")
    workshop.folder.mkdir()
    workshop.copy_code()
    slide = ROOT / "tests" / "data" / "slides" / "CMU-1-Small-Region.svs"
    (workshop.folder / "slides.tsv").write_text(f"slide_id\tpath\tpatient_id\nS1\t{slide}\tP1\n")
    workshop.config.write_text("sheet: slides.tsv\n")
    return workshop


@pytest.fixture
def installed(checkout, tmp_path):
    """A Python in whose site-packages another version of the library lies, as after `pip install`."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "base.pth").write_text(sysconfig.get_paths()["purelib"])
    shutil.copytree(checkout.folder / "scripts" / "histomake", site / "histomake")
    version = site / "histomake" / "version.py"
    version.write_text(re.sub('"[^"]*"$', '"9.9"', version.read_text().rstrip()) + "\n")
    return folder / "bin" / "python"


def convert(checkout, python):
    return checkout.run([str(python), *checkout.command("--cores", "1", "--", MANIFEST)[1:]])


def test_the_library_beside_the_scripts_runs(checkout, installed):
    done = convert(checkout, installed)
    assert done.returncode == 0, done.stderr
    sidecar = json.loads((checkout.folder / f"{MANIFEST}.meta.json").read_text())
    assert sidecar["packages"]["histomake"] != "9.9"


def test_a_job_refuses_where_the_path_of_the_library_does_not_reach_it(checkout, installed):
    # As with --sdm conda, for which Snakemake removes PYTHONPATH.
    snakefile = checkout.folder / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace("rule all:", 'os.environ.pop("PYTHONPATH")\n\n\nrule all:'))
    done = convert(checkout, installed)
    assert done.returncode != 0
    assert "the library was imported from" in done.stderr
    assert not (checkout.folder / MANIFEST).exists()
