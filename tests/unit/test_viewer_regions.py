"""Regions that are drawn in the viewer: what a browser keeps, saves and copies."""

from __future__ import annotations

import json

import pytest
import yaml
from histomake.annotation.read import read_annotation
from histomake.base.units import Level0Pixels
from histomake.config import Annotations, Explain

from tests.browser import Browser
from tests.marked_slide import MARKED, READY, SIZE, SLIDE, SPAN, make_results, patch_positions
from tests.viewed import viewing

pytestmark = pytest.mark.machine


@pytest.fixture
def page(tmp_path):
    with viewing(make_results(tmp_path), f"/slide/{SLIDE}") as browser:
        yield browser


def on_screen(page: Browser, x: float, y: float) -> tuple[float, float]:
    """Pixels of the window of a place on the slide."""
    place = page.value(
        "{const view = transform(); const box = document.getElementById('stage').getBoundingClientRect();"
        f"[box.left + view.x + {x} * view.scale, box.top + view.y + {y} * view.scale]}}"
    )
    return tuple(place)


def draw(page: Browser, *places: tuple[float, float], shape: str = "rectangle") -> None:
    """Draw a region of class nuclei through places on the slide."""
    page.value(
        f"document.getElementById('shape').value = '{shape}'; document.getElementById('class').value = 'nuclei';"
        "toggleDrawing(true)"
    )
    page.drag([on_screen(page, *place) for place in places])
    page.value("toggleDrawing(false)")


def saved(page: Browser, folder) -> list:
    """The regions as the workflow reads them from the file that the page saves."""
    path = folder / "drawn.geojson"
    path.write_text(page.value("JSON.stringify(asGeoJson())"))
    classes, side = Annotations(classes={"nuclei": "nuclei"}), Level0Pixels(SIZE)
    return read_annotation(path, classes, slide_id=SLIDE, width=side, height=side).regions


def test_a_drawn_rectangle_is_read_as_an_annotation_of_its_place(page, tmp_path):
    x, y = patch_positions()[MARKED]
    draw(page, (x, y), (x + SPAN / 2, y + SPAN / 2), (x + SPAN, y + SPAN))
    ((name, region),) = saved(page, tmp_path)
    pixel = 1 / page.value("transform().scale")
    assert name == "nuclei"
    assert region.bounds == pytest.approx((x, y, x + SPAN, y + SPAN), abs=2 * pixel)


def test_an_outline_follows_the_path_and_ends_at_the_edge_of_the_slide(page, tmp_path):
    draw(page, (500, 500), (1500, 500), (1500, 1500), (-100, 1500), shape="outline")
    ((_, region),) = saved(page, tmp_path)
    assert region.bounds == pytest.approx((0, 500, 1500, 1500), abs=20)
    assert region.area == pytest.approx((1000 + 1500) / 2 * 1000, rel=0.03)


def test_regions_are_copied_as_settings_of_the_report(page):
    draw(page, (500, 500), (800, 900), (1000, 1200))
    ((slide, *box),) = Explain(**yaml.safe_load(page.value("asConfig()"))["explain"]).regions
    assert slide == SLIDE
    assert box == pytest.approx([500, 500, 500, 700], abs=20)


def test_regions_are_still_there_when_the_page_is_opened_again(page):
    draw(page, (500, 500), (1000, 1200))
    kept = page.value("JSON.stringify(asGeoJson())")
    page.reload()
    page.wait(READY + " && regions.all.length")
    assert json.loads(page.value("JSON.stringify(asGeoJson())")) == json.loads(kept)
    page.value("document.querySelector('#regions button').click()")
    assert page.value("[regions.all.length, document.getElementById('save').disabled]") == [0, True]


def test_dragging_moves_the_slide_unless_a_region_is_drawn(page):
    before = page.value("JSON.stringify(shownPart())")
    draw(page, (500, 500), (900, 900), (1000, 1200))
    assert page.value("JSON.stringify(shownPart())") == before
    page.drag([on_screen(page, *place) for place in ((500, 500), (900, 900), (1000, 1200))])
    page.wait(f"JSON.stringify(shownPart()) !== {json.dumps(before)}")
    assert page.value("regions.all.length") == 1
