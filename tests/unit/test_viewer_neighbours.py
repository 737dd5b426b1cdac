"""The viewer's search: a click finds the most similar patches of the cohort."""

from __future__ import annotations

import http.client
import io
import json

import numpy as np
import pytest
from histomake.base.layout import Layout
from histomake.config import Encoder, Grid
from histomake.features.encoders import load_group
from histomake.features.extract import extract
from histomake.features.search import FeatureCohort, similar
from histomake.slide.reader import open_slide
from histomake.viewer.neighbours import FOUND, THUMB_PX
from PIL import Image
from small_cohort import GRID_NAME, MPP, build_cohort

from tests.viewed import served, viewing

GRID = Grid(size=64, mpp=MPP)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """Two slides with features; the second has those of a further encoder too."""
    root = tmp_path_factory.mktemp("cohort")
    found = Layout(root)
    settings = Encoder(grid=GRID_NAME, name="resnet10t", weights=False)
    for number, entry in enumerate(build_cohort(root, 2)):
        for name in ("a", "b")[: number + 1]:
            ready = load_group({name: settings}, GRID, models={}, threads=1)
            path = found.features(name, entry.slide_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            extract(ready, entry, path, batch=32, threads=1, code="c", made_of="m")
    return found


@pytest.fixture(scope="module")
def server(layout, tmp_path_factory):
    library = tmp_path_factory.mktemp("library") / "openseadragon.min.js"
    library.write_text("// stands for the library")
    with served(layout, library) as found:
        yield found


@pytest.fixture
def fetch(server):
    def ask(path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        connection.request("GET", path, headers={"Cookie": f"histomake-{server.server_port}={server.guard.token}"})
        answer = connection.getresponse()
        return answer.status, answer.read()

    return ask


def test_a_slide_names_the_encoders_that_it_has_features_of(fetch):
    assert json.loads(fetch("/api/slides/s0")[1])["encoders"] == ["a"]
    assert json.loads(fetch("/api/slides/s1")[1])["encoders"] == ["a", "b"]


def test_the_patch_at_a_place_is_compared_with_the_whole_cohort(fetch, layout):
    status, body = fetch("/api/similar/s0/a/200.0/330.0")
    found = json.loads(body)
    asked = found["asked"]
    assert status == 200
    assert (asked["x"], asked["y"], asked["span"]) == (192, 320, 64)
    expected = similar(FeatureCohort(layout, "a"), "s0", asked["patch_id"], count=FOUND)
    assert [(p["slide"], p["patch_id"]) for p in found["found"]] == [(p.slide, p.patch_id) for p in expected]
    assert {p["slide"] for p in found["found"]} == {"s0", "s1"}


@pytest.mark.parametrize(
    "path",
    ["s0/a/9999/9999", "s0/b/200/330", "s0/none/200/330", "nothing/a/200/330", "..%2Fs0/a/200/330"],
)
def test_a_place_slide_or_encoder_without_features_is_not_found(fetch, path):
    assert fetch(f"/api/similar/{path}")[0] == 404


def test_a_place_that_is_no_number_is_refused(fetch):
    assert fetch("/api/similar/s0/a/x/y")[0] in (400, 404)


def test_a_thumbnail_shows_the_pixels_of_its_patch(fetch, layout):
    asked = json.loads(fetch("/api/similar/s1/a/400/100")[1])["asked"]
    place = FeatureCohort(layout, "a").place("s1", asked["patch_id"])
    status, body = fetch(f"/thumb/s1/a/{place.patch_id}")
    picture = np.asarray(Image.open(io.BytesIO(body)))
    with open_slide(layout.manifest("s1")) as reader:
        pixels = reader.read(place.x, place.y, GRID.size, GRID.mpp)
    assert status == 200
    assert picture.shape == (THUMB_PX, THUMB_PX, 3)
    assert abs(picture.mean(axis=(0, 1)) - pixels.mean(axis=(0, 1))).max() < 4


@pytest.mark.parametrize("path", ["s1/a/99999", "s0/b/1", "nothing/a/1"])
def test_a_thumbnail_of_an_unknown_patch_is_not_found(fetch, path):
    assert fetch(f"/thumb/{path}")[0] == 404


def test_features_of_a_new_slide_are_found_without_a_restart(layout, server):
    neighbours = server.neighbours
    cohort = neighbours._cohort("s0", "a")
    assert neighbours._cohort("s0", "a") is cohort
    folder = layout.features("a", "s0").parent
    (folder / "new").touch()
    (folder / "new").unlink()
    assert neighbours._cohort("s0", "a") is not cohort


@pytest.mark.machine
def test_a_click_shows_similar_patches_with_links_to_their_places(layout):
    opened = "window.histomake?.viewer?.world?.getItemCount() > 0"
    with viewing(layout, "/slide/s0", ready=opened) as browser:
        browser.wait("document.getElementById('encoder').value === 'a'")
        place = browser.value(
            "(() => { const v = transform(), b = document.getElementById('stage').getBoundingClientRect();"
            " return [b.x + v.x + 350 * v.scale, b.y + v.y + 250 * v.scale] })()"
        )
        browser.click(*place)
        browser.wait(f"document.querySelectorAll('#similar img').length === {FOUND}", seconds=60)
        browser.wait("[...document.querySelectorAll('#similar img')].every((i) => i.complete && i.naturalWidth > 0)")
        links = browser.value("[...document.querySelectorAll('#similar a')].map((a) => a.getAttribute('href'))")
        assert all(link.startswith(("/slide/s0#", "/slide/s1#")) for link in links)
