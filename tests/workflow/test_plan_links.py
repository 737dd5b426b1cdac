"""What `plan=new` knows of links between slides is all that Snakemake plans: a slide that it leaves out has no job."""

import json
import os
import shutil
import sys

import pytest
import yaml

from tests.workflow.conftest import BAGS, write_others
from tests.workshop import ROOT, Workshop

WHOLE_PATIENTS = BAGS | {
    "level": "patient",
    "target": {"source": "sheet", "column": "outcome"},
    "predict": {"roles": ["val", "test", "predict"]},
}


@pytest.fixture(scope="module")
def links(finished, tmp_path_factory):
    """Links of all jobs of every kind of task, cascades, graphs and transfers, planned before any has run."""
    workshop = Workshop(tmp_path_factory.mktemp("links"))
    workshop.copy_code()
    workshop.write_config()
    shutil.copytree(finished.folder / "demo", workshop.folder / "demo")
    write_others(workshop)
    header, *rows = workshop.rows()
    workshop.write_rows([f"{header}\toutcome", *(f"{row}\t{row[1:3]}" for row in rows)])
    content = yaml.safe_load(workshop.config.read_text())
    del content["tasks"]["reused"]
    content["tasks"]["patients"] = WHOLE_PATIENTS
    content["encoders"]["learned"] = {"grid": "x10", "name": "task:fine"}
    chosen = {"task": "coarse", "class_name": "nuclei", "budget": 0.5}
    content["encoders"]["chosen"] = content["encoders"]["small"] | {"choose": chosen}
    content["tasks"]["on_chosen"] = BAGS | {"features": "chosen"}
    workshop.config.write_text(yaml.safe_dump(content))
    library = os.pathsep.join([str(workshop.folder / "scripts"), str(ROOT)])
    path = workshop.folder / "links.json"
    command = ["env", f"PYTHONPATH={library}", sys.executable, "-m", "tests.planned_links", str(workshop.config)]
    done = workshop.run([*command, str(path)])
    assert path.exists(), done.stderr[-3000:]
    return json.loads(path.read_text())


def test_every_file_that_jobs_of_slides_share_is_compared_with_the_last_run(links):
    assert {file for _, file in links["shared"]} <= set(links["files"])


def test_slides_behind_a_shared_file_are_those_whose_change_makes_a_plan_of_all_slides(links):
    assert {slide for _, slide in links["taught"]} <= set(links["fitted"])


def test_slides_that_a_job_reads_of_other_slides_are_planned_together_with_its_own(links):
    assert links["others"]
    assert all(other in links["together"][slide] for _, slide, other in links["others"])
