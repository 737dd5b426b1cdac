"""Virtual slides in the viewer: offered as layers, at their place on the scanned slide, and always marked."""

from __future__ import annotations

import http.client
import io
import json
from pathlib import Path

import numpy as np
import pytest
from histomake.base.records.manifest import Manifest, VirtualStain
from histomake.base.units import Mpp
from histomake.config import Convert
from histomake.generate.lattice import SlideLattice
from histomake.generate.store import write_virtual_slide
from histomake.slide.reader import open_slide
from PIL import Image

from tests import sample_records
from tests.marked_slide import MARKED, SLIDE, SPAN, border_offsets, make_results, patch_positions, shown
from tests.viewed import served, viewing

ORANGE = (230, 159, 0)
MARK = "document.getElementById('mark')"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The slide with its black patch orange in silico, at half the resolution, by two transfers."""
    layout = make_results(tmp_path_factory.mktemp("viewer") / "results")
    for transfer, codec in (("he_pas", "jpeg"), ("he_silver", "zstd")):
        files = layout.transfer(transfer)
        with open_slide(layout.manifest(SLIDE)) as reader:
            lattice = SlideLattice(reader, Mpp(1.0))
            image = lattice.read(0, 0, lattice.width, lattice.height)
            image = np.where((image < 128).all(axis=2, keepdims=True), np.uint8(ORANGE), np.uint8(255))
            manifest = write_virtual_slide(
                lambda x, y, width, height, image=image: image[y : y + height, x : x + width],
                lattice,
                Manifest.read_usable(layout.manifest(SLIDE)),
                files.store(SLIDE).parent,
                config=Convert(codec=codec, quality=95),
                virtual=VirtualStain(transfer=transfer, stains=("HE", transfer[3:]), weights_sha256=None),
            )
        manifest.write(files.manifest(SLIDE))
    sample_records.lost(SLIDE).write(layout.transfer("broken").manifest(SLIDE))
    return layout


@pytest.fixture(scope="module")
def server(results, tmp_path_factory):
    with served(results, Path(__file__)) as server:
        yield server


def ask(server, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", path, headers={"Cookie": f"histomake-{server.server_port}={server.guard.token}"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_slide_offers_its_virtual_slides_with_their_marks(server):
    found = json.loads(ask(server, f"/api/slides/{SLIDE}")[1])["virtual"]
    assert [one["mark"] for one in found] == ["in silico: HE to pas by he_pas", "in silico: HE to silver by he_silver"]
    assert [one["levels"][0]["downsample"] for one in found] == [2, 2]
    assert ask(server, f"/{found[0]['store']}/zarr.json")[0] == 200


def test_tiles_of_a_virtual_slide_no_browser_decodes_come_as_jpeg(server):
    x, y = patch_positions()[MARKED]
    status, body = ask(server, f"/virtual/he_silver/{SLIDE}/0/{y // 2 // 256}/{x // 2 // 256}")
    assert status == 200
    pixels = np.asarray(Image.open(io.BytesIO(body))).astype(int)
    assert np.abs(pixels[y // 2 % 256 + 64, x // 2 % 256 + 64] - ORANGE).max() < 12


@pytest.mark.parametrize("transfer", ["other", "broken", "..%2ftransfers"])
def test_a_transfer_that_made_no_slide_is_not_found(server, transfer):
    assert ask(server, f"/virtual/{transfer}/{SLIDE}/0/0/0")[0] == 404


@pytest.mark.machine
def test_a_virtual_slide_lies_on_the_scanned_one_to_a_pixel_under_its_mark(results):
    with viewing(results, f"/slide/{SLIDE}") as browser:
        browser.wait("histomake.virtual.size === 2")
        assert not [r for r in browser.requests if "/transfers/" in r["url"] or "/virtual/" in r["url"]]
        assert browser.value(f"{MARK}.hidden")
        assert np.abs(border_offsets(browser, "silico")).max() <= 1
        assert browser.value(f"{MARK}.innerText") == "IN SILICO: HE to pas by he_pas. Not as scanned"
        browser.value("document.getElementById('transfer').value = 'he_silver'")
        assert np.abs(border_offsets(browser, "silico")).max() <= 1
        assert "he_silver" in browser.value(f"{MARK}.innerText")
        browser.value(f"goTo('0,0,{SPAN},{SPAN}')")
        assert not browser.value(f"{MARK}.hidden")
        shown(browser)
        assert browser.value(f"{MARK}.hidden")
