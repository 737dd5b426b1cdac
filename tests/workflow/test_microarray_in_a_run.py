"""A tissue microarray through the workflow: table, picture, catalog and page, and a slide that is none."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from histomake.base.records.sidecar import Sidecar

from tests.unit.microarrays import Microarray
from tests.unit.scenes import MPP, two_pieces
from tests.workshop import Workshop

ARRAY = Microarray(rows=3, columns=4, degrees=2, missing={(1, 2)}, halved={(2, 1)})
TARGETS = (
    "results/catalog.duckdb",
    "results/report/index.html",
    *(f"results/report/slides/{s}.html" for s in ("T", "U")),
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Workshop:
    """A run over a microarray T, and a slide U that is none."""
    workshop = Workshop(tmp_path_factory.mktemp("microarray"))
    workshop.copy_code()
    rows = ["slide_id\tpath\tpatient_id\tmpp"]
    for slide, image in (("T", ARRAY.image()), ("U", two_pieces())):
        np.save(workshop.folder / f"{slide}.npy", image)
        rows.append(f"{slide}\t{slide}.npy\tpatient-{slide}\t{MPP}")
    (workshop.folder / "slides.tsv").write_text("\n".join(rows) + "\n")
    content = {"sheet": "slides.tsv", "results": "results", "microarray": {"core_mm": 0.6}, "tasks": {}}
    content["grids"] = {"x5": {"mpp": 2.0, "size": 128}}
    workshop.config.write_text(yaml.safe_dump(content))
    workshop.snakemake("--", *TARGETS)
    return workshop


def test_the_cores_of_a_microarray_are_tabulated_and_nothing_is_left_to_do(ran):
    table = pq.read_table(ran.results / "cores/T.parquet").to_pylist()
    expected = [f"{letter}{number}" for letter in "ABC" for number in range(1, 5) if (letter, number) != ("B", 3)]
    assert [core["core"] for core in table] == expected
    assert ran.planned("--", *TARGETS) == set()


def test_table_and_picture_are_declared_outputs(ran):
    sidecar = Sidecar.read(ran.results / "cores/T.parquet.meta.json")
    assert sidecar.rule == "cores"
    assert set(sidecar.outputs) == {"results/cores/T.parquet", "results/cores/T.jpg"}


def test_pages_show_the_cores_and_why_a_slide_has_none(ran):
    page = (ran.results / "report/slides/T.html").read_text()
    assert "1 of 12 cores are missing: B3" in page
    assert re.search(r"no regular grid of cores of 0\.6 mm", (ran.results / "report/slides/U.html").read_text())
    front = (ran.results / "report/index.html").read_text()
    assert "1 of 2 slides have a grid of cores" in front


def test_a_slide_without_cores_is_used_for_everything_else(ran):
    assert json.loads((ran.results / "quarantine.json").read_text()) == []
    assert pq.read_table(ran.results / "patches/x5/U.parquet").num_rows > 0


def test_another_diameter_finds_cores_again_and_no_tissue(ran):
    content = yaml.safe_load(ran.config.read_text())
    ran.config.write_text(yaml.safe_dump(content | {"microarray": {"core_mm": 0.7}}))
    try:
        rules = {job.rule for job in ran.planned("--", *TARGETS)}
    finally:
        ran.config.write_text(yaml.safe_dump(content))
    assert "cores" in rules
    assert not {"convert", "presegment", "quality", "tabulate_patches"} & rules
