"""`plan=new` and `plan=all` plan the same jobs, whatever happened since the last run. `make fuzz` tries more."""

import os
import subprocess
import sys

from tests.workshop import ROOT


def test_the_plans_are_the_same_after_every_step_of_random_histories(tmp_path):
    """Edits of sheet, slides, settings, code and results, and runs that end, fail or die, with jobs that pretend."""
    histories = ["--histories", "1", "--first", "4", "--steps", "3", "--variants", "cascades"]
    command = [sys.executable, "-m", "tests.histories", str(tmp_path), *histories]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
