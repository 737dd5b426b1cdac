"""Cores of tissue microarrays: found on the grid they were put on, or refused."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest
from array_reader import ArrayReader
from histomake.base.errors import Reason, SlideError
from histomake.base.records.core_table import CoreTableRecord
from histomake.base.records.record import Quarantined
from histomake.catalog.build import build_catalog
from histomake.config import Microarray as Settings
from histomake.config import Tissue
from histomake.pictures import canvas
from histomake.pictures.cores_view import cores_view
from histomake.report.cores_section import cores_of_slide
from histomake.tissue.core_table import SCHEMA, empty_core_table, read_cores, tabulate_cores, write_cores
from histomake.tissue.cores import NoGridError, core_name, find_cores
from histomake.tissue.mask import presegment
from hypothesis import given, settings
from hypothesis import strategies as st
from microarrays import Microarray
from scenes import MPP, glass, large_piece, two_pieces

from tests import sample_records

MASK_UM = 8.0
RIM = 16.0
"""Most µm by which the tissue mask extends beyond the edge of a core, from blur and closing."""
GAPS = {(0, 0), (1, 0), (2, 3), (2, 4), (4, 6)}
ARRAYS = {
    "whole": Microarray(),
    "turned": Microarray(degrees=2),
    "turned back, shifted": Microarray(degrees=-5, jitter=60),
    "shifted by an eighth": Microarray(jitter=900 / 8),
    "missing": Microarray(degrees=2, jitter=50, missing=GAPS),
    "broken": Microarray(degrees=2, halved={(1, 1), (3, 5)}, torn={(2, 2), (0, 4)}),
    "large cores": Microarray(rows=3, columns=4, core=1000, pitch=1300, margin=1000),
}


def tissue_of(image):
    return presegment(ArrayReader(image, MPP), Tissue(mpp=MASK_UM), slide_id="s1")


@pytest.fixture(scope="module", params=ARRAYS)
def found(request):
    """A microarray and the cores that are found on it."""
    array = ARRAYS[request.param]
    return array, find_cores(tissue_of(array.image()).mask, diameter=array.core / MASK_UM)


def test_every_core_has_the_row_and_column_where_it_was_put(found):
    array, grid = found
    assert {(core.row, core.column) for core in grid.cores} == set(array.places)
    assert (grid.rows, grid.columns) == (array.rows, array.columns)
    assert grid.missing == [core_name(*place) for place in sorted(array.missing)]
    assert grid.degrees == pytest.approx(array.degrees, abs=0.3)


def test_whole_cores_have_their_centre_diameter_and_area(found):
    array, grid = found
    for core in grid.cores:
        place = core.row, core.column
        if place in array.halved:
            continue
        away = np.hypot(core.x * MASK_UM - array.places[place][0], core.y * MASK_UM - array.places[place][1])
        assert away < MASK_UM
        assert array.core < core.diameter * MASK_UM < array.core + 2 * RIM
        gap = 0.2 * array.core * array.core if place in array.torn else 0
        full = np.pi * (array.core / 2) ** 2
        # The tissue itself has pale places, which the mask lacks.
        assert 0.75 * (full - gap) < core.area * MASK_UM**2 < np.pi * (array.core / 2 + RIM) ** 2


def test_half_a_core_has_half_the_area():
    array = ARRAYS["broken"]
    cores = find_cores(tissue_of(array.image()).mask, diameter=array.core / MASK_UM).cores
    half = [core.area for core in cores if (core.row, core.column) in array.halved]
    whole = np.median([core.area for core in cores])
    assert np.array(half) / whole == pytest.approx(0.5, abs=0.12)


def discs(places, radius: float, shape) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return np.any([np.hypot(x - a, y - b) < radius for a, b in places], axis=0)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_grids_of_any_size_angle_pitch_and_gaps_are_found(data):
    rows, columns = data.draw(st.integers(2, 5)), data.draw(st.integers(2, 6))
    pitch, turn = data.draw(st.floats(28, 60)), np.radians(data.draw(st.floats(-4, 4)))
    every = [(r, c) for r in range(rows) for c in range(columns)]
    # Every row and column keeps its first core, so that names do not depend on the gaps, and most places are filled.
    inner = [place for place in every if min(place) > 0]
    gone = set(data.draw(st.lists(st.sampled_from(inner), max_size=len(every) // 4))) if rows * columns > 6 else set()
    step = pitch * np.array([np.cos(turn), np.sin(turn)])
    down = np.array([-step[1], step[0]])
    places = {(r, c): (80 + c * step + r * down) for r, c in every if (r, c) not in gone}
    extent = 160 + 6 * 60
    grid = find_cores(discs(list(places.values()), 10, (extent, extent)), diameter=20)
    assert {(core.row, core.column) for core in grid.cores} == set(places)
    for core in grid.cores:
        assert np.hypot(*(places[core.row, core.column] - [core.x, core.y])) < 1


def test_names_are_letters_of_the_row_and_the_number_of_the_column():
    assert [core_name(0, 0), core_name(1, 11), core_name(25, 0), core_name(26, 2)] == ["A1", "B12", "Z1", "AA3"]


@pytest.mark.parametrize("image", [two_pieces, large_piece], ids=["two pieces", "one piece"])
def test_a_slide_with_other_tissue_has_no_grid(image):
    with pytest.raises(NoGridError, match="as large as a core"):
        find_cores(tissue_of(image()).mask, diameter=600 / MASK_UM)


def test_pieces_that_lie_anyhow_are_no_grid():
    rng, places = np.random.default_rng(4), list[np.ndarray]()
    while len(places) < 24:
        place = rng.uniform(20, 380, 2)
        if all(np.hypot(*(place - other)) > 26 for other in places):
            places.append(place)
    with pytest.raises(NoGridError):
        find_cores(discs(places, 10, (400, 400)), diameter=20)


def test_one_row_is_no_grid():
    with pytest.raises(NoGridError, match="rows"):
        find_cores(discs([(40 + 30 * i, 50) for i in range(8)], 10, (100, 320)), diameter=20)


@pytest.fixture(scope="module")
def tabulated():
    """Table of a microarray that lacks cores."""
    array = ARRAYS["missing"]
    image = array.image()
    manifest = sample_records.manifest("s1", width=image.shape[1], height=image.shape[0], mpp=MPP)
    return image, tabulate_cores(manifest, tissue_of(image), Settings(core_mm=0.6), path="tissue/s1.png")


def test_the_table_is_in_level_0_pixels_micrometres_and_square_millimetres(tabulated, tmp_path: Path):
    write_cores(tabulated[1], tmp_path / "s1.parquet")
    table, record = read_cores(tmp_path / "s1.parquet")
    assert table.schema.equals(SCHEMA)
    assert isinstance(record, CoreTableRecord)
    assert record.missing == ("A1", "B1", "C4", "C5", "E7")
    assert record.warnings == ("5 of 35 cores are missing: A1, B1, C4, C5, E7.",)
    first = table.to_pylist()[0]
    x, y = ARRAYS["missing"].places[0, 1]
    assert (first["core"], first["grid_row"], first["grid_column"]) == ("A2", 1, 2)
    assert [first["x"], first["y"]] == pytest.approx([x / MPP, y / MPP], abs=MASK_UM / MPP)
    assert first["diameter_um"] == pytest.approx(600, abs=2 * RIM)
    assert 0.2 < first["tissue_mm2"] < 0.31


def test_a_slide_without_a_grid_is_refused_with_its_mask_and_what_to_do():
    image = two_pieces()
    manifest = sample_records.manifest("s1", width=image.shape[1], height=image.shape[0], mpp=MPP)
    with pytest.raises(SlideError, match=r"microarray\.core_mm") as caught:
        tabulate_cores(manifest, tissue_of(image), Settings(core_mm=0.6), path="tissue/s1.png")
    assert caught.value.reason == Reason.NO_CORES
    assert caught.value.path == "tissue/s1.png"


def test_the_picture_has_a_circle_around_each_core(tabulated):
    image, table = tabulated
    record = CoreTableRecord.decode(table.schema.metadata[b"histomake"], "t")
    drawn = cores_view(ArrayReader(image, MPP), table, record, mpp=MASK_UM)
    bare = cores_view(ArrayReader(image, MPP), table.slice(0, 0), record, mpp=MASK_UM)
    thumb, changed = canvas.thumbnail(ArrayReader(image, MPP), MASK_UM), (drawn != bare).any(axis=2)
    bar = len(canvas.with_scale_bar(thumb.pixels, thumb.mpp)) - len(thumb.pixels)
    head = len(drawn) - len(thumb.pixels) - bar
    for core in table.to_pylist():
        x, y = round(core["x"] / thumb.scale), head + round(core["y"] / thumb.scale)
        reach = round(core["diameter_um"] / 2 / thumb.mpp)
        for left in (x - reach, x + reach):
            assert changed[y - 2 : y + 3, left - 2 : left + 3].any()
        assert not changed[y - 2 : y + 3, x + reach + 4 : x + reach + 10].any()


def test_catalog_and_page_have_the_cores_and_say_which_slide_has_none(tabulated, tmp_path: Path):
    lost = without_cores("s2")
    files = {"s1": tabulated[1], "s2": empty_core_table(lost)}
    for slide, table in files.items():
        (tmp_path / "cores").mkdir(exist_ok=True)
        write_cores(table, tmp_path / "cores" / f"{slide}.parquet")
        sample_records.manifest(slide).write(tmp_path / f"{slide}.json")
    build_catalog(
        tmp_path / "catalog.duckdb",
        manifests=[tmp_path / f"{slide}.json" for slide in files],
        tissue=[],
        quality=[],
        annotations=[],
        tables={},
        splits={},
        predictions={},
        cores=[tmp_path / "cores" / f"{slide}.parquet" for slide in files],
    )
    with duckdb.connect(tmp_path / "catalog.duckdb", read_only=True) as base:
        rows = base.execute("SELECT slide_id::VARCHAR, count(*), min(core), max(grid_row) FROM cores GROUP BY 1")
        assert rows.fetchall() == [("s1", 30, "A2", 5)]
    canvas.write_picture(glass(20, 20), tmp_path / "s1.jpg")
    page = cores_of_slide(tmp_path / "cores/s1.parquet", tmp_path / "s1.jpg")
    assert "5 of 35 cores are missing" in page
    assert "A2" in page
    assert lost.detail in cores_of_slide(tmp_path / "cores/s2.parquet", tmp_path / "s1.jpg")


def without_cores(slide: str) -> Quarantined:
    error = SlideError(Reason.NO_CORES, slide_id=slide, path="tissue/s2.png", detail="no regular grid", remedy="Look")
    return Quarantined.of(error, "cores")
