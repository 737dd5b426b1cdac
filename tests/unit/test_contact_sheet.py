"""Tests of the contact sheet: kept and excluded patches, all reasons, and a reproducible choice."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from array_reader import ArrayReader
from histomake.config import Grid
from histomake.patch.table import REASONS
from histomake.patch.tabulate import schema
from histomake.pictures import contact_sheet
from PIL import Image
from scenes import MPP, two_pieces

from tests import sample_records

GRID = Grid(size=64, mpp=MPP)
RECORD = sample_records.patch_table(grid=GRID)


def patch_table(reasons):
    n = len(reasons)
    place = np.arange(n, dtype=np.int32)
    columns = [place.astype(np.uint32), place * 64 % 1600, place * 64 // 1600 * 64, np.ones(n, np.float32)]
    excluded = pa.array([REASONS.index(r) for r in reasons], pa.int8())
    reason = pa.DictionaryArray.from_arrays(excluded, pa.array(REASONS))
    return pa.Table.from_arrays([*map(pa.array, columns), reason], schema=schema([]))


@pytest.fixture
def titles(monkeypatch):
    """Positions of the patches on the sheet, in order."""
    said = []

    def record(reader, x, y, grid):
        said.append((x, y))
        return reader.read(x, y, grid.size, grid.mpp)

    monkeypatch.setattr(contact_sheet, "_thumbnail", record)
    return said


def draw(path, reasons, patches=6, seed=0):
    contact_sheet.contact_sheet(
        ArrayReader(two_pieces(), MPP), patch_table(reasons), RECORD, path, patches=patches, seed=seed
    )


def test_a_rare_reason_is_shown_beside_frequent_background(tmp_path, titles):
    reasons = [""] * 50 + ["background"] * 300 + ["pen"] * 2 + ["fold"]
    draw(tmp_path / "c.png", reasons)
    shown = [reasons[y // 64 * 25 + x // 64] for x, y in titles]
    assert shown.count("") == 6
    assert shown.count("pen") == 2
    assert shown.count("fold") == 1
    assert shown.count("background") == 3
    with Image.open(tmp_path / "c.png") as image:
        assert image.width > 800


def test_the_choice_depends_only_on_the_seed(tmp_path, titles):
    for seed in (1, 1, 2):
        draw(tmp_path / "c.png", [""] * 100, seed=seed)
    first, again, other = titles[:6], titles[6:12], titles[12:]
    assert first == again != other


@pytest.mark.parametrize("reasons", [[], [""] * 3, ["background"] * 3])
def test_a_slide_without_kept_or_without_excluded_patches_has_a_sheet(tmp_path, reasons):
    draw(tmp_path / "c.png", reasons)
    assert (tmp_path / "c.png").stat().st_size > 1000
