"""With another copy of the library installed, the jobs run the one beside their scripts, or refuse."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest

MANIFEST = "elsewhere/slides/P01-A.json"


@pytest.fixture
def installed(workshop, tmp_path):
    """A Python in whose site-packages another version of the library lies, as after `pip install`."""
    folder = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "base.pth").write_text(sysconfig.get_paths()["purelib"])
    shutil.copytree(workshop.folder / "scripts" / "histomake", site / "histomake")
    version = site / "histomake" / "version.py"
    version.write_text(re.sub('"[^"]*"$', '"9.9"', version.read_text().rstrip()) + "\n")
    workshop.write_config(results="elsewhere")
    return folder / "bin" / "python"


def convert(workshop, python):
    command = [str(python), *workshop.command("--cores", "1", "--", MANIFEST)[1:]]
    return workshop.run(command)


def test_the_library_beside_the_scripts_runs(workshop, installed):
    done = convert(workshop, installed)
    assert done.returncode == 0, done.stderr
    sidecar = json.loads((workshop.folder / f"{MANIFEST}.meta.json").read_text())
    assert sidecar["packages"]["histomake"] != "9.9"


def test_a_job_refuses_where_the_path_of_the_library_does_not_reach_it(workshop, installed):
    # As with --sdm conda, for which Snakemake removes PYTHONPATH.
    snakefile = workshop.folder / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace("rule all:", 'os.environ.pop("PYTHONPATH")\n\n\nrule all:'))
    done = convert(workshop, installed)
    assert done.returncode != 0
    assert "the library was imported from" in done.stderr
    assert not (workshop.folder / MANIFEST).exists()
