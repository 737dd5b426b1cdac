"""The machine and the software of a job, as recorded in its sidecar."""

import subprocess
import sys

from histomake.audit.code import SCRIPTS, imported_files
from histomake.audit.environment import package_versions
from histomake.version import __version__


def test_the_library_s_own_version_is_recorded():
    assert package_versions()["histomake"] == __version__


def test_a_new_version_alone_changes_no_code_digest():
    assert not [s for s in SCRIPTS.glob("*.py") if SCRIPTS / "histomake" / "version.py" in imported_files(s)]


def test_the_slurm_job_is_found_without_its_environment_variables(tmp_path, monkeypatch):
    inner = "import histomake.audit.environment as e; print(e.slurm_job())"
    middle = (
        "import os, subprocess, sys; e = {k: v for k, v in os.environ.items() if not k.startswith('SLURM')}; "
        f"subprocess.run([sys.executable, '-c', {inner!r}], env=e, check=True)"
    )
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    found = subprocess.run([sys.executable, "-c", middle], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "4711"
