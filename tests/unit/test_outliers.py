"""Slides that look unlike their cohort: measures of colour, robust z-scores, and the page with pictures."""

from __future__ import annotations

import re

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from histomake.base.file_cache import FileCache
from histomake.base.layout import Layout
from histomake.catalog.outliers import outlier_table
from histomake.cohort.outliers import FEWEST, MEASURES, ODD, deviations, quality_values
from histomake.config import Grid
from histomake.pictures.glance import glance
from histomake.report import outliers_page as outliers_page_module
from histomake.report.outliers_page import outliers_page
from histomake.report.outliers_section import outliers_section
from histomake.tissue.appearance import measure_appearance
from histomake.tissue.ink import find_glass, whiten
from hypothesis import given
from hypothesis import strategies as st
from scenes import cmu
from small_cohort import GRID_NAME, MPP, build_slide

from tests import sample_records

HAEMATOXYLIN, EOSIN, DAB = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)
"""Optical densities in R, G, B of one unit of a stain (Ruifrok and Johnston 2001)."""


def cohort(measure: str, values: list[float | None]) -> dict[str, dict[str, float | None]]:
    """Slides s0, s1 … with one measure."""
    return {f"s{i}": {measure: value} for i, value in enumerate(values)}


def look(*density: float, light: float = 1.0):
    """The appearance of tissue of one optical density, on glass lit with ``light`` of 255."""
    image = np.full((40, 40, 3), 255 * light)
    image[10:30, 10:30] *= 10 ** -np.array(density)
    tissue = np.zeros((40, 40), bool)
    tissue[10:30, 10:30] = True
    image, nothing = image.round().astype(np.uint8), np.zeros_like(tissue)
    glass = find_glass(image, nothing)
    return measure_appearance(whiten(image, nothing, glass), tissue, nothing, glass)


def test_a_score_is_the_distance_to_the_median_in_median_absolute_deviations():
    found = deviations(cohort("sharpness", [1, 2, 3, 4, 5, 6, 7, 8, 30]))
    assert {(one.median, one.spread) for one in found} == {(5.0, 1.4826 * 2)}
    assert [one.slide_id for one in found if one.odd] == ["s8"]
    assert found[8].z == pytest.approx(25 / (1.4826 * 2))


@given(st.lists(st.floats(0, 50), min_size=FEWEST, max_size=20), st.floats(0.0, 9.0))
def test_a_score_does_not_depend_on_where_the_scale_begins(values, shift):
    scores = [[one.z for one in deviations(cohort("sharpness", v))] for v in (values, [v + shift for v in values])]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_where_most_slides_are_equal_differences_that_cannot_be_seen_are_no_outliers():
    least = MEASURES["glass_brightness"].least_spread
    found = deviations(cohort("glass_brightness", [240.0] * 9 + [240 - 3 * least, 240 - 4 * least]))
    assert [one.odd for one in found[-2:]] == [False, True]


def test_less_blur_than_usual_is_not_odd():
    found = deviations(cohort("blur_share", [0.5] * 9 + [0.0, 1.0]))
    assert found[9].z < -ODD
    assert [one.oddness for one in found[9:]] == [0.0, pytest.approx(0.5 / 0.02)]


def test_areas_of_tissue_are_compared_by_their_ratio():
    found = deviations(cohort("tissue_mm2", [100.0] * 9 + [10.0, 1000.0]))
    assert [one.z for one in found[9:]] == pytest.approx([-10, 10])
    assert [one.odd for one in found[9:]] == [True, False]
    assert found[0].median == pytest.approx(100)


def test_a_few_slides_are_no_cohort():
    values = [1.0] * (FEWEST - 2) + [9.0, None]
    found = deviations(cohort("sharpness", values))
    assert len(found) == FEWEST - 1
    assert {(one.z, one.odd) for one in found} == {(None, False)}


@pytest.mark.parametrize(("stain", "hue"), [(HAEMATOXYLIN, 66), (EOSIN, 122), (DAB, 204)])
def test_a_stain_has_its_own_hue_whatever_its_strength(stain, hue):
    for strength in (0.3, 0.6):
        found = look(*(strength * np.array(stain)))
        assert found.hue == pytest.approx(hue, abs=2)
        assert found.density == pytest.approx(strength * np.mean(stain), abs=0.005)


def test_haematoxylin_and_eosin_are_told_apart():
    unit = look(*HAEMATOXYLIN).haematoxylin
    mixed = look(*(0.4 * np.array(HAEMATOXYLIN) + 0.2 * np.array(EOSIN)))
    assert mixed.haematoxylin / unit == pytest.approx(0.4, abs=0.02)
    assert mixed.eosin / look(*EOSIN).eosin == pytest.approx(0.2, abs=0.02)


def test_a_dimmer_lamp_changes_the_glass_and_no_stain():
    bright, dim = look(*HAEMATOXYLIN, light=0.96), look(*HAEMATOXYLIN, light=0.8)
    assert (bright.glass_brightness, dim.glass_brightness) == (245, 204)
    for name in ("density", "haematoxylin", "eosin"):
        assert getattr(dim, name) == pytest.approx(getattr(bright, name), abs=0.02)
    assert dim.hue == pytest.approx(bright.hue, abs=2)


def test_artefacts_are_left_out_unless_they_cover_all_tissue():
    image = cmu()[200:400, 200:400]
    tissue, pen = np.ones(image.shape[:2], bool), np.zeros(image.shape[:2], bool)
    pen[:90] = True
    inked = image.copy()
    inked[pen] = (0, 60, 20)
    clean = measure_appearance(inked, tissue, pen, None)
    assert clean == measure_appearance(image[90:], tissue[90:], pen[90:], None)
    assert clean.glass_brightness is None
    assert measure_appearance(inked, tissue, tissue, None) == measure_appearance(inked, tissue, ~tissue, None)


def test_grey_tissue_has_no_hue():
    assert look(0.3, 0.3, 0.3).hue is None


def test_every_measure_of_a_slide_is_compared():
    appearance = look(*HAEMATOXYLIN)
    values = quality_values(sample_records.quality(appearance=appearance), sample_records.tissue(faint_mm2=0.5))
    assert {*values} == {*MEASURES}
    assert values["faint_share"] == 0.2
    assert quality_values(sample_records.quality(), sample_records.tissue())["hue"] is None


GRID = (GRID_NAME, Grid(size=64, mpp=MPP))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Layout and records of nine slides: s0 is blurred, s1 pale; the store of s2 is damaged, and s9 in quarantine."""
    layout = Layout(tmp_path_factory.mktemp("outliers"))
    build_slide(layout, "s0", seed=1, grid=Grid(size=64, mpp=MPP))
    names = [f"s{i}" for i in range(9)]
    for name in names[1:]:
        sample_records.manifest(name, store="s0.zarr" if name != "s2" else "missing.zarr").write(layout.manifest(name))
        layout.table(GRID_NAME, name).touch()
    blur, none = {"pen": 0.0, "blur": 0.4, "fold": 0.0}, {"pen": 0.0, "blur": 0.0, "fold": 0.0}
    strong, pale = look(*HAEMATOXYLIN), look(*(0.3 * np.array(HAEMATOXYLIN)))
    quality = {
        name: sample_records.quality(
            name, shares=blur if name == "s0" else none, appearance=pale if name == "s1" else strong
        )
        for name in names
    }
    tissue = {name: sample_records.tissue(name) for name in names}
    lost = {"s9": sample_records.lost("s9", stage="presegment")}
    return layout, quality | lost, tissue | lost


def catalog(quality, tissue) -> duckdb.DuckDBPyConnection:
    """A catalog of the slides with the tables that the page reads; each has patches around (300, 200)."""
    base = duckdb.connect()
    base.register("outliers", outlier_table(quality, tissue))
    slides = [{"slide_id": name, "site": "north", "mpp": MPP} for name in quality]
    base.register("slides", pa.Table.from_pylist(slides))
    patches = [{"slide_id": n, "x": x, "y": 200, "tissue": 1.0} for n in quality for x in (280, 300, 320)]
    base.register(f"patches_{GRID_NAME}", pa.Table.from_pylist(patches))
    return base


def test_slides_in_quarantine_are_in_no_comparison(results):
    _, quality, tissue = results
    table = outlier_table(quality, tissue)
    assert {*table["slide_id"].to_pylist()} == {f"s{i}" for i in range(9)}
    odd = table.filter(table["odd"]).to_pylist()
    assert {row["slide_id"] for row in odd} == {"s0", "s1"}
    assert {row["measure"] for row in odd if row["slide_id"] == "s0"} == {"blur_share"}
    assert {"density", "haematoxylin"} <= {row["measure"] for row in odd if row["slide_id"] == "s1"}


def test_the_page_shows_the_oddest_slide_first_and_says_why(results):
    layout, quality, tissue = results
    text = outliers_page(catalog(quality, tissue), layout, grid=GRID, pages={"s1"})
    shown = re.findall(r'<a href="(?:slides/|\.\./views/tissue/)(s\d)\.(html|jpg)"', text.split("Oddest first")[1])
    assert len(shown) == 9
    assert {shown[0], shown[1]} == {("s0", "jpg"), ("s1", "html")}
    assert "<b>share out of focus 0.4 (median 0, z +20.0)</b>" in text
    assert "2 of 9 slides have an outlier" in text
    assert "missing.zarr" in text


def test_pictures_of_unchanged_slides_are_not_drawn_again(results, tmp_path, monkeypatch):
    layout, quality, tissue = results
    drawn = []
    monkeypatch.setattr(outliers_page_module, "glance", lambda *given: drawn.append(given) or glance(*given))

    def page():
        cache = FileCache(tmp_path / "outliers.parquet")
        text = outliers_page(catalog(quality, tissue), layout, grid=GRID, pages=(), cache=cache)
        cache.save()
        return text

    first = page()
    assert len(drawn) == 8  # the store of s2 is damaged
    assert page() == first
    assert len(drawn) == 8
    layout.table(GRID_NAME, "s1").write_text("made again")
    assert page() == first
    assert len(drawn) == 9


def test_the_section_of_the_report_lists_outliers_and_links_to_the_page(results):
    layout, quality, tissue = results
    text = outliers_section(catalog(quality, tissue), layout)
    assert "2 of 9 slides have an outlier" in text
    assert 'href="outliers.html"' in text


def test_pages_of_a_few_slides_say_that_they_are_not_compared(results):
    layout, quality, tissue = results
    few = catalog(*({name: records[name] for name in ("s0", "s1", "s9")} for records in (quality, tissue)))
    for text in (outliers_page(few, layout, grid=GRID, pages=()), outliers_section(few, layout)):
        assert f"fewer than {FEWEST} usable slides" in text
