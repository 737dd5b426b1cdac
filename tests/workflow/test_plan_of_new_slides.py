"""`plan=new` runs what a plan of all slides would run, for any change since the last complete run."""

import shutil

import pytest

from tests.workflow.test_rerun_contract import add_slide, rewrite_the_prose
from tests.workshop import Workshop

NEW, ALL = ("--config", "plan=new"), ("--config", "plan=all")


@pytest.fixture(scope="module", autouse=True)
def complete(finished):
    """A complete run after whatever other tests did: what is compared with later."""
    finished.snakemake("--forcerun", "lineage")


def test_slides_stay_unchanged_when_only_docstrings_and_comments_change(workshop):
    rewrite_the_prose(workshop)
    assert "plan: 0 of 5 slides are new or changed" in workshop.snakemake("--dry-run", *NEW).stderr


def test_plan_new_runs_only_new_slides_and_leaves_nothing_for_plan_all(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "workshop", symlinks=True)
    workshop = Workshop(tmp_path / "workshop")
    assert "plan: 0 of 5 slides are new or changed" in workshop.snakemake("--dry-run", *NEW).stderr
    add_slide(workshop, split="predict")
    done = workshop.snakemake(*NEW)
    assert "plan: 1 of 6 slides are new or changed" in done.stderr
    assert workshop.planned(*ALL) == set()
    assert "plan: 0 of 6 slides are new or changed" in workshop.snakemake("--dry-run", *NEW).stderr
