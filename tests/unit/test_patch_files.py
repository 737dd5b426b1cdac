"""Patches as image files, and the sheet of the patches that a training has drawn."""

from __future__ import annotations

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from histomake.base.layout import Layout
from histomake.base.records.model_card import ModelGrid
from histomake.base.units import Level0Pixels
from histomake.cli import main
from histomake.config import Grid
from histomake.learn.data.drawn_patches import FILE, SCHEMA
from histomake.patch.table import read_table
from histomake.pictures import drawn_sheet
from histomake.slide.reader import open_slide
from PIL import Image
from small_cohort import GRID_NAME, MPP, build_quarantined, build_slide

from tests import sample_records

GRID = Grid(size=64, mpp=MPP)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Two slides with a patch table, and one in quarantine."""
    layout = Layout(tmp_path_factory.mktemp("results"))
    for seed, name in enumerate(("s0", "s1")):
        build_slide(layout, name, seed=seed, grid=GRID)
    build_quarantined(layout, "lost", grid=GRID)
    return layout


def extract(layout, folder, *options):
    """Run the command; return the rows of its table."""
    assert main(["extract", str(folder), "--grid", GRID_NAME, "--results", str(layout.results), *options]) == 0
    with (folder / "patches.tsv").open() as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_every_kept_patch_is_a_file_with_the_pixels_of_the_slide(layout, tmp_path):
    rows = extract(layout, tmp_path / "out")
    kept = read_table(layout.table(GRID_NAME, "s0"))[0].to_pylist()
    assert [int(row["patch_id"]) for row in rows if row["slide_id"] == "s0"] == [
        row["patch_id"] for row in kept if not row["excluded"]
    ]
    assert {row["slide_id"] for row in rows} == {"s0", "s1"}
    assert "area_smooth" in rows[0]
    row = rows[5]
    with open_slide(layout.manifest(row["slide_id"])) as reader:
        expected = reader.read(Level0Pixels(int(row["x"])), Level0Pixels(int(row["y"])), 64, MPP)
    with Image.open(tmp_path / "out" / row["file"]) as image:
        assert np.array_equal(np.asarray(image), expected)


def test_a_choice_of_patches_is_the_same_whatever_other_slides_there_are(layout, tmp_path):
    both = extract(layout, tmp_path / "both", "--most", "4", "--format", "jpg")
    one = extract(layout, tmp_path / "one", "--most", "4", "--format", "jpg", "--slide", "s1")
    assert [row for row in both if row["slide_id"] == "s1"] == one
    assert len(both) == 8
    assert sorted(path.name for path in (tmp_path / "one/s1").iterdir()) == sorted(
        row["file"].split("/")[1] for row in one
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--grid", "x99"], "'x99' of any slide"), (["--grid", GRID_NAME, "--slide", "s9"], "'tiny' of s9")],
)
def test_patches_that_do_not_exist_are_refused(layout, tmp_path, capsys, options, message):
    assert main(["extract", str(tmp_path / "out"), "--results", str(layout.results), *options]) == 1
    assert message in capsys.readouterr().err


def test_a_folder_with_files_is_not_written_into(layout, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("")
    assert main(["extract", str(tmp_path), "--grid", GRID_NAME, "--results", str(layout.results)]) == 1
    assert "is not empty" in capsys.readouterr().err


@pytest.fixture
def shown(layout, monkeypatch):
    """A task whose draws were recorded; returns what was put on the sheet."""
    rows = [
        {"step": step, "worker": worker, "slide_id": f"s{worker}", "patch_id": step, "x": 64 * step, "y": 64}
        for worker in (1, 0)
        for step in range(5)
        for _ in range(3)
    ]
    path = layout.training_details("tumour", 0) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    grid = ModelGrid(name=GRID_NAME, size=64, mpp=MPP)
    sample_records.model_card(grid=grid).write(layout.description("tumour", 0))
    found = []
    monkeypatch.setattr(
        drawn_sheet,
        "patch_sheet",
        lambda layout, grid, places, title: found.extend(places) or np.zeros((8, 8, 3), np.uint8),
    )
    return found


def test_the_sheet_shows_the_first_middle_and_last_batch(layout, shown):
    drawn_sheet.drawn_sheet(layout, "tumour", 0, batches=None, patches=4)
    assert [line for *_, line in shown] == [f"{step}: {slide}" for step in (0, 2, 4) for slide in ("s0",) * 3 + ("s1",)]
    assert shown[4][:3] == ("s0", 128, 64)


def test_the_command_draws_the_batches_that_are_named(layout, shown, tmp_path):
    place = ["drawn", "tumour", str(tmp_path / "a.png"), "--results", str(layout.results)]
    assert main([*place, "--batch", "3", "--patches", "1"]) == 0
    assert shown == [("s0", 192, 64, "3: s0")]
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [("tumour", ["--batch", "9"], "batches 0 to 4, but not 9"), ("other", [], "recorded with train.audit: true")],
)
def test_draws_that_were_not_recorded_are_refused(layout, shown, tmp_path, capsys, task, options, message):
    assert main(["drawn", task, str(tmp_path / "a.png"), "--results", str(layout.results), *options]) == 1
    assert message in capsys.readouterr().err
