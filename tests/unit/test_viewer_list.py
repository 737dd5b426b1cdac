"""The list of slides in the viewer: scores, pictures, and what a browser makes of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from histomake.viewer import slide_list
from PIL import Image

from tests.browser import Browser
from tests.marked_slide import MARKED, SIZE, SLIDE, SPAN, make_results, patch_positions
from tests.viewed import viewing

SCORES = """level\tslide_id\tpatient_id\tfold\tpatches\tscore_no\tscore_yes\tpredicted\tvalidated
patient\t\tP1\t0\t9\t0.1\t0.9\tyes\tFalse
slide\tlost\tP1\t0\t0\t\t\t\tFalse
slide\t{slide}\tP1\tall\t9\t0.25\t0.75\tyes\tFalse
slide\t{slide}\tP1\t0\t9\t0.2\t0.8\tyes\tFalse
slide\t{slide}\tP1\t1\t9\t0.3\t0.7\tyes\tFalse
"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    layout = make_results(tmp_path_factory.mktemp("listed"))
    layout.scores("rich").parent.mkdir()
    layout.scores("rich").write_text(SCORES.format(slide=SLIDE))
    return layout


def test_scores_of_slides_are_the_mean_over_folds_where_several_predicted_them(layout):
    no, yes = slide_list.scores(layout)
    assert (no["title"], yes["title"]) == ("rich: no", "rich: yes")
    assert (no["slides"], yes["slides"]) == ({SLIDE: 0.25}, {SLIDE: 0.75})


def test_the_picture_of_a_slide_shows_all_of_it(layout):
    picture = Image.open(io.BytesIO(slide_list.preview(layout.manifest(SLIDE))))
    assert picture.size == (slide_list.PREVIEW_PX, slide_list.PREVIEW_PX)
    x, y = (np.array(patch_positions()[MARKED]) + SPAN / 2) / SIZE * slide_list.PREVIEW_PX
    assert picture.convert("L").getpixel((int(x), int(y))) < 60


@pytest.fixture(scope="module")
def page(layout):
    with viewing(layout, "/") as browser:
        yield browser


ENTRIES = "[...document.querySelectorAll('#list a')].map((a) => a.innerText.split('\\n'))"


def change(browser: Browser, name: str, value: str) -> None:
    """Enter a value into a field, as a user does."""
    browser.value(
        f"{{const e = document.getElementById('{name}'); e.value = {value!r};"
        "e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change'))}"
    )


@pytest.mark.machine
def test_the_address_without_a_slide_opens_the_first_usable_one(page):
    assert page.value("location.pathname") == f"/slide/{SLIDE}"
    assert page.value("document.querySelector('#list .current').innerText").startswith(SLIDE)


@pytest.mark.machine
def test_search_finds_slides_by_name_and_by_the_reason_of_their_loss(page):
    change(page, "search", "no_mpp")
    assert page.value(ENTRIES) == [["lost", "no_mpp"]]
    change(page, "search", "")
    assert len(page.value(ENTRIES)) == 2


@pytest.mark.machine
def test_slides_are_ordered_by_the_score_of_a_task(page):
    change(page, "score", "1")
    assert page.value(ENTRIES) == [[SLIDE, "0.750"], ["lost", "no_mpp"]]
    change(page, "score", "")


@pytest.mark.machine
def test_a_key_opens_the_next_slide(page):
    step = 1 if page.value("listed.shown[0].slide_id") == SLIDE else -1
    key = {1: "n", -1: "p"}[step]
    page.value(f"window.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}'}}))")
    page.wait("location.pathname === '/slide/lost'")


@pytest.mark.machine
def test_on_a_narrow_screen_nothing_has_to_be_scrolled_sideways(layout):
    with viewing(layout, f"/slide/{SLIDE}", width=390, height=844) as browser:
        assert browser.value("document.documentElement.scrollWidth") <= 390
        assert browser.value("document.getElementById('stage').clientHeight") > 400
