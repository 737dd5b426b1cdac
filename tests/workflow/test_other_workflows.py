"""Use from elsewhere: as a module of another workflow, and from another working folder."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from tests.workshop import ROOT, Workshop

SNAKEFILE = """
configfile: "small.yaml"


module histomake:
    snakefile: "{root}/Snakefile"
    config: config


use rule * from histomake as hm_*


use rule evaluate from histomake as hm_evaluate with:
    threads: 2


rule all:
    default_target: True
    input:
        rules.hm_all.input,


onstart:
    histomake.onstart()


onsuccess:
    histomake.onsuccess()
"""


@pytest.fixture(scope="module")
def project(finished: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A folder with the small cohort and its configuration, and without the workflow's code."""
    workshop = Workshop(tmp_path_factory.mktemp("project"))
    shutil.copytree(finished.folder / "demo", workshop.folder / "demo")
    workshop.write_config()
    content = yaml.safe_load(workshop.config.read_text())
    content["tasks"]["tissue_kind"]["train"] |= {"steps": 2, "validate_every": 2}
    content["export"] = {"identifiers": True}  # pictures of slides, whose captions are looked for in the report
    workshop.config.write_text(yaml.safe_dump(content))
    return workshop


@pytest.fixture(scope="module")
def imported(project: Workshop) -> Workshop:
    """A run of a workflow that uses this one as a module."""
    (project.folder / "Snakefile").write_text(SNAKEFILE.format(root=ROOT))
    project.first_run = project.run([*project.command("--cores", "2")[:3], "--cores", "2"], timeout=1800)
    assert project.first_run.returncode == 0, project.first_run.stderr[-6000:]
    return project


def test_a_workflow_that_imports_this_one_makes_everything(imported):
    assert "rule hm_convert:" in imported.first_run.stderr
    assert "5 new" in imported.first_run.stderr
    assert json.loads((imported.results / "metrics" / "tissue_kind.json").read_text())["levels"]
    assert (imported.results / "report" / "index.html").is_file()
    # Of the start and of the end of the run.
    assert len(list((imported.results / "audit" / "runs").glob("*T*Z"))) == 2


def test_nothing_is_left_to_do_for_it(imported):
    again = imported.run([*imported.command()[:3], "--cores", "2", "--dry-run"])
    assert "Nothing to be done" in again.stdout + again.stderr


def test_the_workflow_itself_finds_nothing_to_do_after_it(imported):
    direct = imported.snakemake("--snakefile", str(ROOT / "Snakefile"), "--dry-run")
    assert "Nothing to be done" in direct.stdout + direct.stderr


def test_plan_new_plans_all_slides_where_another_workflow_asks(imported):
    again = imported.run([*imported.command()[:3], "--cores", "2", "--dry-run", "--config", "plan=new"])
    assert "slides are new or changed" not in again.stderr


def test_its_report_has_the_captions(imported):
    done = imported.run([*imported.command()[:3], "--report", "report.html"], timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Tissue and quality" in (imported.folder / "report.html").read_text()


def test_a_prediction_is_traced_to_the_slide_through_the_module(imported):
    (prediction,) = (imported.results / "predictions/tissue_kind/fold0").glob("P04-A.parquet")
    import pyarrow.parquet as pq

    patch = pq.read_table(prediction)["patch_id"][0].as_py()
    command = [*imported.command()[:1], "-m", "histomake", "trace", "tissue_kind", "P04-A", str(patch), "--verify"]
    done = imported.run(command)
    assert done.returncode == 0, done.stderr
    assert "\nhm_convert " in done.stdout
    assert "slide     sha256" in done.stdout


@pytest.mark.parametrize("folder", ["relative", "absolute"])
def test_the_workflow_runs_from_another_working_folder(project, folder):
    snakefile = ROOT / "Snakefile" if folder == "absolute" else (ROOT / "Snakefile").relative_to("/")
    place = "" if folder == "absolute" else "../" * (len(project.folder.parts) - 1)
    target = "results/tissue/P01-A.json"
    done = project.snakemake("--snakefile", f"{place}{snakefile}", "--dry-run", "-p", "--forceall", "--", target)
    assert "rule presegment:" in done.stdout + done.stderr
