"""`--config plan=new` runs what a plan of all slides would run, for any change since the last complete run."""

import os
import shutil

import pyarrow.parquet as pq
import pytest
import yaml

from tests.workflow.test_rerun_contract import add_slide, rewrite_the_prose
from tests.workshop import Workshop

NEW = ("--config", "plan=new")


@pytest.fixture(scope="module", autouse=True)
def complete(finished):
    """A complete run after whatever other tests did: what is compared with later."""
    finished.snakemake("--forcerun", "lineage")


def add_one_to_predict(workshop):
    add_slide(workshop, split="predict")


def add_one_to_learn_from(workshop):
    add_slide(workshop, split="train")


def slide_in_role(workshop, role):
    """A slide with that role in the split, and not in quarantine."""
    roles = pq.read_table(workshop.results / "splits" / "tissue_kind.parquet").to_pylist()
    return next(r["slide_id"] for r in roles if r["role"] == role and r["slide_id"] != "P04-B")


def learn_from_one_less(workshop):
    freed = slide_in_role(workshop, "train")
    header, *rows = workshop.rows()
    splits = ["predict" if row.startswith(f"{freed}\t") else "" for row in rows]
    workshop.write_rows([f"{header}\tsplit", *(f"{row}\t{split}" for row, split in zip(rows, splits, strict=True))])


def edit_one(workshop, role):
    with open(workshop.slide_file(slide_in_role(workshop, role)), "ab") as stream:
        stream.write(b"\0")


def edit_one_learned_from(workshop):
    edit_one(workshop, "train")


def edit_one_tested(workshop):
    edit_one(workshop, "test")


def change_the_tissue_settings(workshop):
    content = yaml.safe_load(workshop.config.read_text())
    content["tissue"] = content.get("tissue", {}) | {"close_um": 48.0}
    workshop.config.write_text(yaml.safe_dump(content))


def nothing(workshop):
    pass


@pytest.mark.parametrize(
    "happen",
    [
        nothing,
        add_one_to_predict,
        add_one_to_learn_from,
        learn_from_one_less,
        edit_one_learned_from,
        edit_one_tested,
        change_the_tissue_settings,
    ],
)
def test_plan_new_and_plan_all_run_the_same_jobs(workshop, happen):
    happen(workshop)
    assert workshop.planned(*NEW) == workshop.planned()


def test_slides_stay_unchanged_when_only_docstrings_and_comments_change(workshop):
    rewrite_the_prose(workshop)
    assert "plan: 0 of 5 slides are new or changed" in workshop.snakemake("--dry-run", *NEW).stderr


def test_a_lost_picture_is_drawn_again(workshop):
    picture = workshop.results / "contact" / "x10" / "P01-A.png"
    kept = picture.with_name("kept")
    os.rename(picture, kept)
    try:
        assert workshop.planned(*NEW) == workshop.planned()
    finally:
        os.rename(kept, picture)


def test_plan_new_runs_only_new_slides_and_leaves_nothing_for_plan_all(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "workshop", symlinks=True)
    workshop = Workshop(tmp_path / "workshop")
    assert "plan: 0 of 5 slides are new or changed" in workshop.snakemake("--dry-run", *NEW).stderr
    add_slide(workshop, split="predict")
    done = workshop.snakemake(*NEW)
    assert "plan: 1 of 6 slides are new or changed" in done.stderr
    assert workshop.planned() == set()
    assert "plan: 0 of 6 slides are new or changed" in workshop.snakemake("--dry-run", *NEW).stderr
