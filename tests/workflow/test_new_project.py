"""A project made by `histomake init`: the workflow is used as a module, from a folder of its own."""

import os
import subprocess
import sys

from histomake.base.records.run import RunRecord
from histomake.cli.init import lay_out

from tests.workshop import ROOT


def test_a_new_project_runs_the_workflow_of_the_checkout(tmp_path):
    lay_out(tmp_path)
    slide = ROOT / "tests" / "data" / "slides" / "CMU-1-Small-Region.svs"
    sheet = tmp_path / "config" / "slides.tsv"
    sheet.write_text(f"slide_id\tpath\tpatient_id\nS1\t{slide}\tP1\n")
    options = ["--cores", "2", "--config", "plan=new", "--", "results/quality/S1.json"]
    command = [sys.executable, "-m", "snakemake", *options]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "quality" / "S1.json.meta.json").is_file()
    assert "cohort: 1 slides: 1 new" in done.stderr
    assert f"plan: all slides, because plan=new needs: snakemake --snakefile {ROOT}/Snakefile" in done.stderr
    events = [RunRecord.read(path).event for path in (tmp_path / "results" / "audit" / "runs").glob("*/run.json")]
    assert sorted(events) == ["finished", "started"]
