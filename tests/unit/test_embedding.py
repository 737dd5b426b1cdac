"""The embedding: drawing patches, laying them out, what separates them, and the page that shows them."""

from __future__ import annotations

import csv
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from histomake.base.errors import HistomakeError
from histomake.explain import embedding, embedding_page
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from tests.browser import Browser


def small_embedding(count: int = 12) -> embedding.Embedding:
    rng = np.random.default_rng(0)
    score = rng.random(count).astype(np.float32)
    columns = {
        "slide_id": ["</script><b>&"] * count,
        "patient_id": ["P"] * count,
        "site": ["north"] * count,
        "patch_id": pa.array(range(count), pa.uint32()),
        "x": pa.array(range(count), pa.int32()),
        "y": pa.array(range(count), pa.int32()),
        "span": pa.array([256.0] * count),
        "predicted": ["b" if s > 0.5 else "a" for s in score],
        "label": pa.array([None] + ["a"] * (count - 1), pa.string()),
        "score_a": pa.array(1 - score),
        "score_b": pa.array(score),
        "tissue": pa.array(np.ones(count, np.float32)),
    }
    for name in ("umap2_x", "umap2_y", "umap3_x", "umap3_y", "umap3_z"):
        columns[name] = pa.array(rng.normal(size=count).astype(np.float32))
    thumbs = rng.integers(0, 255, (count, embedding.THUMB_PX, embedding.THUMB_PX, 3), dtype=np.uint8)
    return embedding.Embedding(pa.table(columns), thumbs, {})


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 120))
def test_patches_are_drawn_as_evenly_as_slides_allow(counts, limit):
    drawn = embedding.draw_evenly(counts, limit, np.random.default_rng(0))
    taken = [len(rows) for rows in drawn]
    assert sum(taken) == min(limit, sum(counts))
    assert all(len(set(rows.tolist())) == len(rows) for rows in drawn)
    not_full = [t for t, c in zip(taken, counts, strict=True) if t < c]
    assert not not_full or max(taken) - min(not_full) <= 1


def test_a_model_of_numbers_offers_its_values_to_colour_by_and_no_classes():
    found = small_embedding()
    nothing = pa.nulls(found.table.num_rows, pa.string())
    table = found.table.drop(["score_a", "score_b", "predicted", "label"])
    for name, column in (("predicted", nothing), ("label", nothing), ("score_age", pa.array([61.5] * 12))):
        table = table.append_column(name, column)
    table = table.append_column("target_age", pa.array([60.0, None] * 6))
    payload = embedding_page._payload(embedding.Embedding(table, found.thumbs, {}))
    assert not {"predicted", "label", "outcome"} & set(payload["categories"])
    assert {"score_age", "target_age"} <= set(payload["numbers"])


def test_the_layout_is_the_same_for_the_same_seed():
    features = np.random.default_rng(1).normal(size=(40, 12)).astype(np.float32)
    first, second = (embedding.lay_out(features, neighbours=10, seed=3) for _ in range(2))
    assert (first[0] == second[0]).all()
    assert first[0].shape == (40, 2)
    assert first[1].shape == (40, 3)


@given(st.integers(2, 700), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_neighbours_are_those_of_an_exhaustive_search(count, seed):
    points = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    wanted = min(5, count)
    index, distance = embedding.nearest_neighbours(points, wanted)
    expected, _ = NearestNeighbors(n_neighbors=wanted, algorithm="brute").fit(points).kneighbors(points)
    assert (index[:, 0] == np.arange(count)).all()
    assert np.allclose(distance, expected, atol=2e-3)


def test_a_patch_is_its_own_first_neighbour_among_copies_of_it():
    index, distance = embedding.nearest_neighbours(np.ones((20, 4), np.float32), 3)
    assert (index[:, 0] == np.arange(20)).all()
    assert not distance.any()


@pytest.mark.parametrize("features", [np.ones((1, 8)), np.ones((30, 8)), np.random.default_rng(0).normal(size=(4, 8))])
def test_too_few_or_equal_patches_still_get_a_layout(features):
    plane, space = embedding.lay_out(features.astype(np.float32), neighbours=15, seed=0)
    assert plane.shape == (len(features), 2)
    assert space.shape == (len(features), 3)
    assert np.isfinite(plane).all()


def test_a_site_that_features_predict_is_reported_and_another_is_not():
    rng = np.random.default_rng(2)
    site = np.repeat([0, 1], 100)
    betraying = rng.normal(size=(200, 10)) + 4 * site[:, None]
    names = [["north", "south"][i] for i in site]
    seen = embedding.describe(betraying.astype(np.float32), {"site": names}, slides=2, seed=0)
    hidden = embedding.describe(rng.normal(size=(200, 10)).astype(np.float32), {"site": names}, slides=2, seed=0)
    assert seen.batch_effect["site"].balanced_accuracy > 0.95
    assert seen.silhouette["site"] > 0.4
    assert abs(hidden.batch_effect["site"].balanced_accuracy - 0.5) < 0.15


def test_groups_too_small_to_measure_are_left_out():
    features = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    record = embedding.describe(features, {"site": ["a"] * 27 + ["b"] * 3}, slides=1, seed=0)
    assert (record.silhouette, record.batch_effect) == ({}, {})
    assert (record.patches, record.slides, record.features) == (30, 1, 5)


def test_a_model_without_features_is_refused_with_its_name():
    predictor = SimpleNamespace(
        network=torch.nn.Linear(3, 1), task=SimpleNamespace(model=SimpleNamespace(name="strange"))
    )
    with pytest.raises(HistomakeError, match="strange"):
        embedding.embed_pixels(predictor, np.zeros((1, 8, 8, 3), np.uint8))


def test_the_page_needs_nothing_from_outside_and_escapes_ids():
    text = embedding_page.page(small_embedding(), title="<task>")
    assert "&lt;task&gt;" in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']?https?:", text)
    payload = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1]
    content = json.loads(payload)
    assert content["categories"]["slide_id"]["names"] == ["</script><b>&"]
    assert content["categories"]["label"]["codes"][0] == -1


def test_no_text_of_the_cohort_can_open_a_comment_or_a_script_in_the_page():
    """Behind ``<!--<script``, browsers read a page's own end of script as text."""
    found = small_embedding()
    place = found.table.column_names.index("slide_id")
    table = found.table.set_column(place, "slide_id", pa.array(["<!--<script>"] * 12))
    text = embedding_page.page(embedding.Embedding(table, found.thumbs, {}), title="<!--<script>")
    assert "<!--" not in text
    payload = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)[1]
    assert json.loads(payload)["categories"]["slide_id"]["names"] == ["<!--<script>"]


@pytest.mark.machine
def test_a_saved_selection_quotes_commas_quotes_and_line_breaks_in_names_and_values():
    function = re.search(r"^function csv\(\) \{.*?^\}", embedding_page.SCRIPT.read_text(), re.S | re.M)[0]
    given = "const raw = {plane: [[0], [0]], space: [[0], [0], [0]]}, selected = [0];"
    given += """const facts = () => [["area, tumour", 'a "b", c'], ["site", "x\\r\\ny"]];"""
    with Browser() as browser:
        saved = browser.value(f"(() => {{ {given}{function}; return csv(); }})()")
    header, row, *_ = csv.reader(io.StringIO(saved, newline=""))
    assert header[:2] == ["area, tumour", "site"]
    assert row[:2] == ['a "b", c', "x\r\ny"]


def test_the_atlas_holds_every_thumbnail_at_its_place():
    thumbs = np.zeros((70, 32, 32, 3), np.uint8)
    thumbs[66] = 200
    (sheet,) = embedding_page.atlases(thumbs)
    assert sheet.shape == (2 * embedding_page.ATLAS_PX, 64 * embedding_page.ATLAS_PX, 3)
    assert (sheet[32:64, 64:96] == 200).all()
    assert sheet[:32].max() == 0


def test_a_single_patch_is_measured_and_shown_too():
    one = small_embedding(1)
    record = embedding.describe(np.ones((1, 4), np.float32), {"slide_id": ["S"], "site": ["a"]}, slides=1, seed=0)
    assert (record.silhouette, record.batch_effect) == ({}, {})
    assert '"patch_id":[0]' in embedding_page.page(one, title="one")
    assert embedding_page.mosaic(one, title="one").shape[2] == 3


@pytest.fixture
def shown(tmp_path):
    """Opens the page of an embedding in a browser."""
    browsers = []

    def make(found, **options):
        path = tmp_path / "map.html"
        path.write_text(embedding_page.page(found, title="map"))
        browser = Browser(**options)
        browsers.append(browser)
        browser.open(path.as_uri())
        browser.wait("typeof colours !== 'undefined' && colours.length > 0")
        return browser

    yield make
    for browser in browsers:
        browser.close()


def point(browser, index):
    """Place of a point in the window."""
    return browser.value(f"((i, b) => [b.x + screen.x[i], b.y + screen.y[i]])({index}, canvas.getBoundingClientRect())")


@pytest.mark.machine
@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_click_keeps_the_patch_with_a_link_to_its_place_in_the_viewer(shown, dimensions):
    browser = shown(small_embedding())
    browser.value(f"document.querySelector('input[value=\"{dimensions}\"]').click()")
    browser.click(*point(browser, 5))
    assert "patch_id\n5" in browser.value("document.getElementById('facts').innerText")
    assert "data:image/jpeg" in browser.value("document.getElementById('thumb').style.backgroundImage")
    address = browser.value("document.getElementById('open').href")
    assert address == "http://127.0.0.1:8150/slide/%3C%2Fscript%3E%3Cb%3E%26#-251,-251,768,768"
    assert [r["url"] for r in browser.requests if r["url"].startswith("http")] == []


@pytest.mark.machine
@pytest.mark.parametrize("dimensions", [2, 3])
def test_patches_inside_a_lasso_are_selected_and_saved(shown, dimensions):
    browser = shown(small_embedding())
    browser.value(f"document.querySelector('input[value=\"{dimensions}\"]').click()")
    browser.value("document.querySelector('input[value=lasso]').click()")
    places = [point(browser, index) for index in range(12)]
    x, y = places[2]
    browser.drag([(x - 9, y - 9), (x + 9, y - 9), (x + 9, y + 9), (x - 9, y + 9), (x - 9, y - 9)])
    inside = [i for i, (px, py) in enumerate(places) if abs(px - x) < 9 and abs(py - y) < 9]
    header, *lines = browser.value("csv()").strip().split("\n")
    assert [int(line.split(",")[header.split(",").index("patch_id")]) for line in lines] == inside
    assert 2 in inside
    assert browser.value("document.getElementById('save').disabled") is False


@pytest.mark.machine
@pytest.mark.parametrize("switches", [(), ("--disable-3d-apis",)])
def test_the_map_is_drawn_with_and_without_webgl(shown, switches):
    browser = shown(small_embedding(500), switches=switches)
    has_gl = browser.value("document.createElement('canvas').getContext('webgl') !== null")
    assert not (switches and has_gl)
    pixels = "canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data"
    inked = browser.value(
        f"(() => {{ const p = {pixels}; let n = 0; for (let i = 3; i < p.length; i += 4) n += p[i] > 0; return n }})()"
    )
    assert inked > 2000


@pytest.mark.machine
def test_a_group_is_hidden_by_a_click_on_its_name(shown):
    browser = shown(small_embedding())
    browser.value("document.querySelector('#legend .group').click()")
    assert browser.value("[...Array(count).keys()].filter((i) => !isHidden(i)).length") == browser.value(
        "data.categories.predicted.codes.filter((c) => c !== 0).length"
    )
