"""Readers in the viewer: what each annotated is a layer with a title, at its place on the slide."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from histomake.annotation.model import Annotation, LabelImage
from histomake.annotation.write import write_annotation
from histomake.base.files import store_of
from histomake.pictures import canvas
from histomake.viewer import outlines, reader_layers
from PIL import Image
from test_viewer_virtual import ask

from tests import sample_records
from tests.marked_slide import CLASSES, MARKED, SIZE, SLIDE, SPAN, border_offsets, make_results, patch_positions
from tests.viewed import served, viewing

LAYER = "document.getElementById('cascade')"


def annotate(layout, reader: str, *, regions=(), labels: LabelImage | None = None) -> None:
    """What a reader annotated on the marked slide."""
    names = [name for name, _ in regions]
    counts = {name: names.count(name) for name in names}
    told = {"width": SIZE, "height": SIZE, "class_names": CLASSES, "regions": counts}
    files = layout.reading(SLIDE, reader)
    files.record.parent.mkdir(parents=True, exist_ok=True)
    annotation = Annotation(CLASSES, list(regions), labels, sample_records.annotation(SLIDE, **told))
    store = store_of(files.labels)
    write_annotation(annotation, record=files.record, geojson=files.outlines, labels=store, keep_labels=True)


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """The marked patch is nuclei for alice, who drew it, and for b-2, who made a mask; carol drew nothing."""
    layout = make_results(tmp_path_factory.mktemp("viewer") / "results")
    x, y = patch_positions()[MARKED]
    labels = np.zeros((SIZE // 2, SIZE // 2), np.uint8)
    labels[y // 2 : (y + SPAN) // 2, x // 2 : (x + SPAN) // 2] = 1
    annotate(layout, "alice", regions=[("nuclei", shapely.box(x, y, x + SPAN, y + SPAN))])
    annotate(layout, "b-2", labels=LabelImage(labels, 2))
    annotate(layout, "carol")
    sample_records.lost(SLIDE).write(layout.reading(SLIDE, "dora").record)
    sample_records.sidecar(outputs={}).write(f"{layout.reading(SLIDE, 'alice').record}.meta.json")
    return layout


@pytest.fixture(scope="module")
def server(layout):
    with served(layout, Path(__file__)) as server:
        yield server


def test_readers_who_annotated_anything_are_layers_with_their_names(server):
    described = json.loads(ask(server, f"/api/slides/{SLIDE}")[1])
    found = {one["task"]: one for one in described["masks"] if one["task"].endswith(".reader")}
    assert {name: one["title"] for name, one in found.items()} == {
        "alice.reader": "reader: alice",
        "b-2.reader": "reader: b-2",
    }
    assert all(one["width"] * one["pixel"] == SIZE for one in found.values())


@pytest.mark.parametrize(("reader", "pixel"), [("alice", 1 / outlines.FINER), ("b-2", 2)])
def test_tiles_of_readers_have_the_colours_of_their_classes(server, reader, pixel):
    described = json.loads(ask(server, f"/api/slides/{SLIDE}")[1])
    layer = next(one for one in described["masks"] if one["task"] == f"{reader}.reader")
    x, y = (corner / layer["pixel"] for corner in patch_positions()[MARKED])
    status, body = ask(server, f"/label/{SLIDE}/{reader}.reader/0/0/{int(y // 512)}/{int(x // 512)}")
    pixels = np.asarray(Image.open(io.BytesIO(body)).convert("RGBA"))
    assert status == 200
    assert layer["pixel"] == pixel
    colour = canvas.PALETTE[described["class_order"].index("nuclei")]
    assert pixels[int(y % 512), int(x % 512)].tolist() == [*colour, 255]


@pytest.mark.parametrize("reader", ["carol", "dora", "eve", "..%2falice", "alice%2f.."])
def test_readers_without_an_annotation_are_not_found(server, reader):
    assert ask(server, f"/label/{SLIDE}/{reader}.reader/0/0/0/0")[0] == 404


def test_outlines_of_a_reader_that_are_written_anew_are_drawn_anew(layout):
    x, y = patch_positions()[MARKED]
    annotate(layout, "later", regions=[("skin", shapely.box(x, y, x + SPAN, y + SPAN))])
    first = reader_layers.open_layer(layout, SLIDE, "later.reader", 0)
    assert reader_layers.open_layer(layout, SLIDE, "later.reader", 0) is first
    annotate(layout, "later", regions=[("nuclei", shapely.box(x, y, x + SPAN, y + SPAN))])
    assert set(reader_layers.open_layer(layout, SLIDE, "later.reader", 0).numbers.tolist()) == {1}
    for path in (layout.reading(SLIDE, "later").record, layout.reading(SLIDE, "later").outlines):
        path.unlink()


def press_down(browser) -> None:
    for kind in ("keyDown", "keyUp"):
        key = {"key": "ArrowDown", "code": "ArrowDown", "windowsVirtualKeyCode": 40}
        browser.call("Input.dispatchKeyEvent", type=kind, **key)


@pytest.mark.machine
def test_layers_of_readers_lie_on_the_image_to_a_pixel_and_are_chosen_by_keyboard(layout):
    with viewing(layout, f"/slide/{SLIDE}") as browser:
        browser.wait("['alice', 'b-2'].every((name) => histomake.masks.has(`${name}.reader/0`))")
        names = browser.value(f"[...{LAYER}.options].map((option) => option.text)")
        assert names == ["none", "errors: pixel_map, fold 0", "reader: alice", "reader: b-2"]
        assert not [r for r in browser.requests if ".reader/" in r["url"]]
        browser.value(f"{LAYER}.focus()")
        press_down(browser)
        for name in ("alice", "b-2"):
            press_down(browser)
            assert browser.value(f"{LAYER}.value") == f"{name}.reader/0"
            beyond = border_offsets(browser, "cascaded")
            if name == "alice":  # half of a line lies outside of what it goes around, on every side the same
                assert np.abs(beyond).max() <= outlines.LINE_PX / 2 + 0.5
                assert np.ptp(beyond) <= 1
            else:
                assert np.abs(beyond).max() <= 1
