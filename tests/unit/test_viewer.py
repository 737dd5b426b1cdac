"""The viewer: what its server serves and refuses, and what a real browser shows of a store."""

from __future__ import annotations

import base64
import http.client
import io
import json
import shutil
import socket
from contextlib import ExitStack
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from histomake.base.errors import HistomakeError
from histomake.base.files import store_of
from histomake.base.layout import Layout
from histomake.base.records.cell_table import CellTableRecord
from histomake.base.records.patch_thresholds import PatchThresholdsRecord, TriedThresholds
from histomake.cells.table import MEASURED, METADATA_KEY, schema, write_cells
from histomake.config import Cells
from histomake.pictures import canvas
from histomake.viewer import content, outlines
from histomake.viewer.guard import RefusedError
from histomake.viewer.masks import TILE
from histomake.viewer.server import IDLE_SECONDS, byte_range, safe_path, serve
from PIL import Image

from tests import sample_records
from tests.arranged_graphs import write_arranged
from tests.marked_slide import (
    MARKED,
    READY,
    SIZE,
    SLIDE,
    SPAN,
    STAGE,
    border_offsets,
    box_of,
    make_results,
    outline_marked,
    overlay_offset,
    patch_positions,
    shown,
)
from tests.viewed import served, viewing


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Layout:
    return make_results(tmp_path_factory.mktemp("viewer") / "results")


@pytest.fixture
def server(results, tmp_path):
    """A running server of the results."""
    library = tmp_path / "openseadragon.min.js"
    library.write_text("// stands for the library")
    with served(results, library) as server:
        yield server


WAIT = IDLE_SECONDS - 10
"""Seconds to wait for an answer."""


def ask(server, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Ask a server with the cookie of a browser that opened its address: (status, headers, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=WAIT)
    cookie = {"Cookie": f"histomake-{server.server_port}={server.guard.token}"}
    connection.request("GET", path, headers=cookie | {name.replace("_", "-"): text for name, text in headers.items()})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


@pytest.fixture
def fetch(server):
    """Ask the server: fetch(path, **headers) → (status, headers, body)."""
    return partial(ask, server)


def test_a_byte_range_of_a_shard_is_served(fetch, results):
    content = next(results.results.glob(f"slides/{SLIDE}.zarr/0/c/0/0/0")).read_bytes()
    status, headers, body = fetch(f"/files/slides/{SLIDE}.zarr/0/c/0/0/0", Range="bytes=10-29")
    assert (status, body) == (206, content[10:30])
    assert headers["Content-Range"] == f"bytes 10-29/{len(content)}"
    assert fetch(f"/files/slides/{SLIDE}.zarr/0/c/0/0/0", Range="bytes=-20")[2] == content[-20:]


def test_a_range_past_the_end_is_refused(fetch):
    assert fetch(f"/files/slides/{SLIDE}.json", Range="bytes=99999999-")[0] == 416


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-200", (90, 100)),
        ("bytes=-30", (70, 100)),
        ("bytes=5-", (5, 100)),
    ],
)
def test_ranges_are_understood(header, expected):
    assert byte_range(header, 100) == expected


@pytest.mark.parametrize(
    "path",
    [
        "/files/../secret.txt",
        "/files/%2e%2e/secret.txt",
        "/files/slides/..%2f..%2fsecret.txt",
        "/files/%2Fetc/passwd",
        "/files//etc/passwd",
        "/files/slides/.hidden",
        "/files/link",
        "/assets/..%2fserver.py",
        "/assets/server.py",
        "/api/slides/..%2f..%2fsecret",
        "/api/overlay/..%2fx/kind/0",
        "/api/patch/" + SLIDE + "/..%2f..%2fkind/0/1",
        "/tile/..%2fx/0/0/0",
        "/label/..%2fx/-/0/0/0/0",
        "/outline/..%2fx/0/0/0",
        "/label/" + SLIDE + "/..%2f..%2fkind/0/0/0/0",
    ],
)
def test_nothing_outside_the_results_is_served(fetch, results, path):
    secret = results.results.parent / "secret.txt"
    secret.write_text("kept private")
    (results.results / "slides" / ".hidden").write_text("kept private")
    link = results.results / "link"
    if not link.is_symlink():
        link.symlink_to(secret)
    status, _, body = fetch(path)
    assert status in (403, 404)
    assert b"private" not in body


def test_a_null_byte_in_a_path_is_refused(results):
    with pytest.raises(RefusedError):
        safe_path(results.results, "slides/a\0b")


def test_another_host_name_is_refused(fetch):
    assert fetch("/api/slides", Host="evil.example:80")[0] == 403


ROUTES = (
    *(
        "/",
        f"/slide/{SLIDE}",
        "/assets/viewer.js",
        f"/files/slides/{SLIDE}.json",
        "/api/slides",
        f"/api/slides/{SLIDE}",
    ),
    *(
        f"/tile/{SLIDE}/0/0/0",
        f"/label/{SLIDE}/kind/0/0/0/0",
        f"/outline/{SLIDE}/0/0/0",
        f"/api/overlay/{SLIDE}/kind/0",
        f"/api/patch/{SLIDE}/kind/0/{MARKED}",
        f"/api/similar/{SLIDE}/small/1/1",
        f"/thumb/{SLIDE}/small/0",
    ),
)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("cookie", ["", "histomake=x", "histomake-{port}=", "histomake-{port}=x"])
def test_without_the_token_nothing_is_served(server, path, cookie):
    status, _, body = ask(server, path, Cookie=cookie.format(port=server.server_port))
    assert status == 403
    assert b"histomake view" in body


def test_the_printed_address_gives_the_cookie_and_hides_the_token(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", f"/slide/{SLIDE}?token={server.guard.token}")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Location")) == (303, f"/slide/{SLIDE}")
    cookie = answer.getheader("Set-Cookie")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    answer.read()
    connection.request("GET", "/api/slides", headers={"Cookie": cookie.partition(";")[0]})
    assert connection.getresponse().status == 200


def test_the_redirect_stays_on_this_server(server):
    path = f"//evil.example/?token={server.guard.token}"
    assert ask(server, path)[1]["Location"].startswith("/")
    assert not ask(server, path)[1]["Location"].startswith("//")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_requests_that_other_sites_cause_are_refused(fetch, site):
    assert fetch("/api/slides", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="image")[0] == 403
    assert fetch("/", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="iframe")[0] == 403
    assert fetch("/", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="document")[0] == 200


def test_pages_and_files_come_with_policies(fetch):
    for path in ("/", f"/files/slides/{SLIDE}.json"):
        headers = fetch(path)[1]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Content-Security-Policy"].startswith("sandbox")


def test_a_link_to_another_disk_is_followed_only_if_that_is_allowed(tmp_path):
    root, disk = tmp_path / "results", tmp_path / "disk"
    (root / "slides").mkdir(parents=True)
    (disk / "S1.zarr").mkdir(parents=True)
    (disk / "S1.zarr" / "zarr.json").write_text("{}")
    (root / "slides" / "S1.zarr").symlink_to(disk / "S1.zarr")
    with pytest.raises(RefusedError, match="--allow"):
        safe_path(root, "slides/S1.zarr/zarr.json")
    assert safe_path(root, "slides/S1.zarr/zarr.json", [disk]) == disk / "S1.zarr" / "zarr.json"


@pytest.mark.parametrize("sent", [b"", b"GET /api/slides HT"], ids=["nothing", "half a request"])
def test_idle_connections_do_not_keep_others_waiting(server, fetch, sent):
    with ExitStack() as idle:
        for _ in range(200):
            connection = idle.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
            connection.sendall(sent)
        # `fetch` waits for less than the time after which the server closes idle connections.
        assert fetch("/")[0] == 200
        assert fetch("/api/slides")[0] == 200


@pytest.fixture
def own_server(tmp_path):
    """A running server of results that the test may change."""
    library = tmp_path / "openseadragon.min.js"
    library.write_text("// stands for the library")
    with served(make_results(tmp_path / "results"), library) as server:
        yield server


def test_a_half_written_manifest_makes_only_its_own_slide_unavailable(own_server):
    own_server.layout.manifest("half").write_text('{"status": "ok"')
    found = {slide["slide_id"]: slide["status"] for slide in json.loads(ask(own_server, "/api/slides")[2])}
    assert (found[SLIDE], found["half"]) == ("ok", "unreadable")
    status, headers, body = ask(own_server, "/api/slides/half")
    assert (status, headers["Retry-After"]) == (503, "5")
    assert b"half.json" in body


def test_a_half_written_table_of_predictions_is_unavailable(own_server):
    path = own_server.layout.prediction("kind", 0, SLIDE)
    path.write_bytes(path.read_bytes()[:200])
    assert ask(own_server, f"/api/overlay/{SLIDE}/kind/0")[0] == 503
    assert ask(own_server, "/api/slides")[0] == 200


def test_a_slide_that_was_converted_again_is_read_again(own_server):
    reader = own_server.reader(SLIDE)
    assert own_server.reader(SLIDE) is reader
    manifest = own_server.layout.manifest(SLIDE)
    content = manifest.read_bytes()
    manifest.with_suffix(".new").write_bytes(content)
    manifest.with_suffix(".new").replace(manifest)
    assert own_server.reader(SLIDE) is not reader


def test_a_results_folder_without_slides_is_named(tmp_path):
    with pytest.raises(HistomakeError, match="holds no slides"):
        serve(tmp_path, port=0, openseadragon=tmp_path)


def test_the_list_distinguishes_quarantined_slides(fetch):
    found = {slide["slide_id"]: slide["status"] for slide in json.loads(fetch("/api/slides")[2])}
    assert found == {SLIDE: "ok", "lost": "quarantined"}
    assert json.loads(fetch("/api/slides/lost")[2])["remedy"] == "Give one in the sheet"


def test_a_patch_comes_with_its_row_its_scores_and_its_lineage(fetch):
    found = json.loads(fetch(f"/api/patch/{SLIDE}/kind/0/{MARKED}")[2])
    assert found["table"]["patch_id"] == MARKED
    assert found["prediction"]["score_nuclei"] == 1
    assert found["lineage"]["predictions sha256"] == "f" * 64
    assert len(found["lineage"]["slide sha256"]) == 64
    assert fetch(f"/api/patch/{SLIDE}/kind/0/999999")[0] == 404


def test_tiles_no_browser_decodes_come_as_jpeg(tmp_path):
    layout = make_results(tmp_path / "results", codec="zstd")
    library = tmp_path / "openseadragon.min.js"
    library.write_text("")
    x, y = patch_positions()[MARKED]
    with served(layout, library) as server:
        pixels = np.asarray(Image.open(io.BytesIO(ask(server, f"/tile/{SLIDE}/0/{y // 256}/{x // 256}")[2])))
        assert ask(server, f"/tile/{SLIDE}/0/9999/0")[0] == 404
    assert pixels.mean() < 5


@pytest.mark.parametrize(("task", "pixel"), [("-", 4), ("pixel_map", 2)])
def test_masks_come_as_coloured_tiles_of_every_level(fetch, task, pixel):
    (mask,) = [m for m in json.loads(fetch(f"/api/slides/{SLIDE}")[2])["masks"] if m["task"] == task]
    assert mask["pixel"] == pixel
    for level in range(mask["levels"]):
        x, y = (c // pixel // 2**level for c in patch_positions()[MARKED])
        tile = mask["tile"]
        status, _, body = fetch(f"/label/{SLIDE}/{task}/0/{level}/{y // tile}/{x // tile}")
        assert status == 200
        pixels = np.asarray(Image.open(io.BytesIO(body)).convert("RGBA"))
        assert pixels[y % tile + 1, x % tile + 1].tolist() == [*canvas.PALETTE[1], 255]
        assert pixels[(y - 4) % tile, x % tile + 1][3] == 0
    assert fetch(f"/label/{SLIDE}/{task}/0/0/99/0")[0] == 404
    assert fetch(f"/label/{SLIDE}/{task}/0/99/0/0")[0] == 404


@pytest.mark.parametrize("name", ["none", "none.cells", "none.errors", "none.graph", "..%2fpixel_map", "a.b.c", "%00"])
def test_a_layer_that_does_not_exist_is_not_found(fetch, name):
    assert fetch(f"/label/{SLIDE}/{name}/0/0/0/0")[0] == 404


def titled(described) -> list[dict]:
    """The layers that can be chosen, without the errors of the segmentation."""
    return [layer for layer in described["masks"] if layer["title"] and not layer["task"].endswith(".errors")]


def test_levels_and_nuclei_of_a_cascade_are_masks_too(fetch, results):
    folder = results.results / "radhical" / "cells"
    group = zarr.open_group(folder / "slides" / f"{SLIDE}.zarr", mode="w")
    group.create_array("labels", data=np.array([[0, 70_000], [3, 0]], np.uint32))
    group.create_array("state2", data=np.array([[0, 1, 2]], np.uint8))
    for level, mpp in ((1, 0.5), (2, 2.0)):
        sample_records.cascade_card(level=level, mpp=mpp).write(folder / f"level{level}" / "model.json")
    described = json.loads(fetch(f"/api/slides/{SLIDE}")[2])
    found = {layer["task"]: (layer["title"], layer["pixel"]) for layer in titled(described)}
    assert found == {"cells.state2": ("cells: level 2", 4), "cells.labels": ("cells: nuclei found", 1)}
    place = {name: described["class_order"].index(name) for name in ("nucleus", "computed", "accepted")}

    def tile(array: str) -> np.ndarray:
        body = fetch(f"/label/{SLIDE}/cells.{array}/0/0/0/0")[2]
        return np.asarray(Image.open(io.BytesIO(body)).convert("RGBA"))

    nuclei, states = tile("labels"), tile("state2")
    assert (nuclei[..., 3] > 0).tolist() == [[False, True], [True, False]]
    assert nuclei[0, 1, :3].tolist() == list(canvas.PALETTE[place["nucleus"]])
    assert states[0, 1, :3].tolist() == list(canvas.PALETTE[place["computed"]])
    assert states[0, 2, :3].tolist() == list(canvas.PALETTE[place["accepted"]])
    shutil.rmtree(folder)


def test_the_deciding_stages_of_a_patch_cascade_are_a_mask_with_a_label_per_patch(fetch, results):
    files = results.patch_cascade("tumour")
    tried = TriedThresholds(lower=[0.1], upper=[0.9], method="joint", auroc=1.0, cost=0.5)
    PatchThresholdsRecord(
        class_name="tumor",
        stages=["coarse", "kind"],
        rule="max_loss",
        dense_auroc=1.0,
        chosen=tried,
        trials=1,
        front=[tried],
        slides=["V"],
        left_out=[],
    ).write(files.thresholds(0))
    x, y = np.array([SPAN, 0], np.int32), np.array([0, SPAN], np.int32)
    files.prediction(0, SLIDE).parent.mkdir(parents=True)
    pq.write_table(pa.table({"x": x, "y": y, "stage": np.array([1, 2], np.uint8)}), files.prediction(0, SLIDE))
    described = json.loads(fetch(f"/api/slides/{SLIDE}")[2])
    found = {layer["task"]: (layer["title"], layer["pixel"]) for layer in titled(described)}
    assert found == {"tumour.stages": ("tumour, fold 0: deciding stage", SPAN)}
    place = {name: described["class_order"].index(f"decided by {name}") for name in ("coarse", "kind")}
    body = fetch(f"/label/{SLIDE}/tumour.stages/0/0/0/0")[2]
    stages = np.asarray(Image.open(io.BytesIO(body)).convert("RGBA"))
    assert (stages[:2, :2, 3] > 0).tolist() == [[False, True], [True, False]]
    assert stages[0, 1, :3].tolist() == list(canvas.PALETTE[place["coarse"]])
    assert stages[1, 0, :3].tolist() == list(canvas.PALETTE[place["kind"]])
    assert fetch(f"/label/{SLIDE}/tumour.stages/1/0/0/0")[0] == 404
    shutil.rmtree(files.folder)


def test_cells_are_masks_in_the_colours_of_their_classes(fetch, results):
    config = Cells(source="task:t")
    columns = {name: np.ones(2, np.float32) for name in MEASURED} | {"cell_id": [1, 2]}
    columns |= {f"neighbours_{radius}um": [0, 0] for radius in config.neighbours_um}
    record = CellTableRecord(
        slide_id=SLIDE,
        sha256="ab" * 32,
        source=config.source,
        class_names=("immune", "tumor"),
        cells=2,
        mpp=1.0,
        scale=2.0,
        neighbours_um=(25, 50),
    )
    columns["class"] = pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int16()), ["immune", "tumor"])
    found = pa.table(columns, schema=schema(config.neighbours_um))
    write_cells(found.replace_schema_metadata({METADATA_KEY: record.encode("cells")}), results.cells("typed", SLIDE))
    group = zarr.open_group(store_of(results.cell_labels("typed", SLIDE)), mode="w")
    group.create_array("0", data=np.array([[0, 1], [2, 0]], np.uint32))
    described = json.loads(fetch(f"/api/slides/{SLIDE}")[2])
    masks = {layer["task"]: (layer["title"], layer["pixel"]) for layer in titled(described)}
    assert masks == {"typed.cells": ("cells: typed", 2)}
    body = fetch(f"/label/{SLIDE}/typed.cells/0/0/0/0")[2]
    pixels = np.asarray(Image.open(io.BytesIO(body)).convert("RGBA"))
    assert (pixels[..., 3] > 0).tolist() == [[False, True], [True, False]]
    order = described["class_order"]
    assert pixels[0, 1, :3].tolist() == list(canvas.PALETTE[order.index("tumor")])
    assert pixels[1, 0, :3].tolist() == list(canvas.PALETTE[order.index("immune")])
    shutil.rmtree(results.results / "cells")


def test_graphs_are_layers_with_a_title(fetch, results):
    told = {"nodes": 50, "extent": 500.0, "clustered": True, "sha256": "ab" * 32}
    results.graph("cells", SLIDE).parent.mkdir(parents=True)
    write_arranged(results.graph("cells", SLIDE), SLIDE, np.random.default_rng(1), **told)
    described = json.loads(fetch(f"/api/slides/{SLIDE}")[2])
    (layer,) = titled(described)
    assert (layer["task"], layer["title"]) == ("cells.graph", "graph: cells")
    assert layer["classes"] == ["edge", "round", "long", "node"]
    status, _, body = fetch(f"/label/{SLIDE}/cells.graph/0/{layer['levels'] - 1}/0/0")
    pixels = np.asarray(Image.open(io.BytesIO(body)).convert("RGBA")).reshape(-1, 4)
    colours = {tuple(pixel[:3].tolist()) for pixel in pixels if pixel[3]}
    order = described["class_order"]
    assert status == 200
    assert colours == {canvas.PALETTE[order.index(name)] for name in ("edge", "round", "long")}
    assert fetch(f"/label/{SLIDE}/other.graph/0/0/0/0")[0] == 404
    shutil.rmtree(results.results / "graphs")


@pytest.fixture(scope="module")
def outlined(tmp_path_factory) -> Layout:
    """The results folder again, with the patch annotated by an outline instead of a mask."""
    layout = make_results(tmp_path_factory.mktemp("outlined") / "results")
    outline_marked(layout)
    return layout


@pytest.mark.parametrize("level", [0, 1, 2, 4])
def test_an_outline_passes_where_it_was_drawn_at_every_level(outlined, level):
    found, scale = outlines.open_outlines(outlined, SLIDE), outlines.FINER / 2**level
    x, y = (corner * scale for corner in patch_positions()[MARKED])
    for middle in ((x, y + SPAN * scale / 2), (x + SPAN * scale, y + SPAN * scale / 2), (x + SPAN * scale / 2, y)):
        column, row = (int(place // TILE) for place in middle)
        tile = found.tile(level, row, column)
        left, top = int(middle[0] - column * TILE), int(middle[1] - row * TILE)
        assert tile[min(top, len(tile) - 1), min(left, tile.shape[1] - 1)] == 1
    middle = (x + SPAN * scale / 2, y + SPAN * scale / 2)
    column, row = (int(place // TILE) for place in middle)
    assert found.tile(level, row, column)[int(middle[1] % TILE), int(middle[0] % TILE)] == 0


def test_holes_are_outlined_and_what_is_too_small_to_see_is_a_dot(outlined):
    found = outlines.open_outlines(outlined, SLIDE)
    coarsest = found.tile(found.count - 1, 0, 0)
    scale = outlines.FINER / 2 ** (found.count - 1)
    assert coarsest.shape == (round(SIZE * scale), round(SIZE * scale))
    assert coarsest[:4, :4].tolist() == [[0, 0, 0, 0], [0, 2, 2, 0], [0, 2, 2, 0], [0, 0, 0, 0]]
    row = coarsest[int(2200 * scale)]
    assert [int(row[int(at * scale)]) for at in (2000, 2050, 2100, 2200, 2300, 2400)] == [2, 0, 2, 0, 2, 2]


def test_a_slide_without_annotation_has_no_outlines_and_opens(outlined, tmp_path):
    layout = Layout(shutil.copytree(outlined.results, tmp_path / "results"))
    for path in (layout.annotation(SLIDE), layout.annotation(SLIDE).with_suffix(".geojson")):
        path.unlink()
    found = content.describe(layout, SLIDE)
    assert found["outlines"] is None
    assert found["class_order"] == ["skin", "nuclei"]


def test_a_tile_of_outlines_that_does_not_exist_is_not_found(outlined, fetch):
    found = outlines.open_outlines(outlined, SLIDE)
    for place in ((0, 99, 0), (99, 0, 0), (0, 0, -1)):
        with pytest.raises(KeyError):
            found.tile(*place)
    assert fetch(f"/outline/{SLIDE}/0/0/0")[0] == 404  # annotated, but by a mask
    assert json.loads(fetch(f"/api/slides/{SLIDE}")[2])["outlines"] is None


def test_changed_outlines_are_read_again(outlined, tmp_path):
    layout = Layout(shutil.copytree(outlined.results, tmp_path / "results"))
    library = tmp_path / "openseadragon.min.js"
    library.write_text("")
    server = serve(layout.results, port=0, openseadragon=library)
    first = server.outlines(SLIDE)
    assert server.outlines(SLIDE) is first
    path = layout.annotation(SLIDE).with_suffix(".geojson")
    path.write_text(path.read_text().replace('"nuclei"', '"skin"'))
    assert set(server.outlines(SLIDE).numbers.tolist()) == {2}
    server.server_close()


def test_class_colours_follow_the_order_of_the_models_classes(fetch):
    assert json.loads(fetch(f"/api/slides/{SLIDE}")[2])["class_order"] == ["skin", "nuclei"]


def test_patches_come_with_what_the_model_decided(fetch):
    found = json.loads(fetch(f"/api/overlay/{SLIDE}/kind/0")[2])
    called = np.frombuffer(base64.b64decode(found["called"]), np.uint8).reshape(2, found["count"])
    assert np.flatnonzero(called[found["classes"].index("nuclei")]).tolist() == [MARKED]
    assert found["range"] == [0, 1]
    scores = [["score of skin", "0"], ["score of nuclei", "1"]]
    assert found["overlays"] == [["class", "called"], *scores, ["errors", "errors"]]


def test_patches_come_with_whether_the_prediction_is_the_annotation(fetch):
    found = json.loads(fetch(f"/api/overlay/{SLIDE}/kind/0")[2])
    wrong = np.frombuffer(base64.b64decode(found["wrong"]), np.uint8)
    assert np.flatnonzero(wrong == 1).tolist() == [0, MARKED]
    assert np.flatnonzero(wrong == content.UNKNOWN).tolist() == [1]


def test_predictions_without_any_annotation_have_no_errors_to_show(own_server):
    path = own_server.layout.prediction("kind", 0, SLIDE)
    pq.write_table(pq.read_table(path).drop_columns("label"), path)
    found = json.loads(ask(own_server, f"/api/overlay/{SLIDE}/kind/0")[2])
    assert ["errors", "errors"] not in found["overlays"]


@pytest.fixture(scope="module")
def page(results):
    """A browser that shows the slide, and the server's address."""
    with viewing(results, f"/slide/{SLIDE}") as browser:
        yield browser


@pytest.mark.machine
def test_tiles_appear_and_the_overlay_lies_on_them_to_a_pixel(page):
    assert (shown(page)[STAGE] > 240).all(axis=2).mean() > 0.5
    assert overlay_offset(page) <= 1


@pytest.mark.machine
def test_masks_lie_on_the_image_to_a_pixel(page):
    page.wait("histomake.masks.size === 3")
    assert overlay_offset(page, "annotation") <= 1
    choose = "{const t = document.getElementById('task'); t.value = %d; t.dispatchEvent(new Event('change'))}"
    page.value(choose % 1)
    page.wait("histomake.overlay.task === 'pixel_map' && document.getElementById('shown').value === 'pixels'")
    assert overlay_offset(page) <= 1
    page.value(choose % 0)
    page.wait("histomake.overlay.task === 'kind'")


@pytest.mark.machine
def test_outlines_lie_on_the_image_to_a_pixel_and_are_fetched_only_when_shown(outlined):
    with viewing(outlined, f"/slide/{SLIDE}") as browser:
        browser.wait("!!histomake.outlines")
        assert not [r for r in browser.requests if "/outline/" in r["url"] or ".geojson" in r["url"]]
        beyond = border_offsets(browser, "annotation")
        assert [r for r in browser.requests if "/outline/" in r["url"]]
    # Half of a line lies outside of what it goes around, on every side the same.
    assert (np.abs(beyond) <= outlines.LINE_PX / 2 + 0.5).all()
    assert np.ptp(beyond) <= 1


@pytest.mark.machine
def test_an_address_with_a_place_opens_there(page):
    x, y = patch_positions()[MARKED]
    page.open("about:blank")
    page.open(f"{page.address}/slide/{SLIDE}#{x},{y},{SPAN},{SPAN}")
    page.wait(READY)
    part = page.value("shownPart()")
    assert part["x"] <= x + 1
    assert part["x"] + part["width"] >= x + SPAN - 1
    assert min(part["width"], part["height"]) == pytest.approx(SPAN, abs=2)
    page.open("about:blank")
    page.open(f"{page.address}/slide/{SLIDE}")
    page.wait(READY)


@pytest.mark.machine
def test_a_click_shows_the_patch_under_it(page):
    bare = shown(page)
    top, bottom, left, right = box_of((bare[STAGE] < 64).all(axis=2))
    page.click(STAGE[1].start + (left + right) / 2, STAGE[0].start + (top + bottom) / 2)
    page.wait("document.getElementById('patch').textContent.includes('lineage')")
    text = page.value("document.getElementById('patch').innerText")
    assert f"patch_id\t{MARKED}" in text
    assert "score_nuclei\t1" in text


@pytest.mark.machine
def test_only_the_visible_tiles_are_fetched(page):
    page.open(f"{page.address}/slide/{SLIDE}")
    page.wait(READY)
    visible = page.value("histomake.viewer.world.getItemAt(0).lastDrawn.length")
    tiles = sum(level["width"] * level["height"] // 65536 for level in page.value("histomake.slide.levels"))
    fetched = page.value("histomake.store.fetched")
    assert visible > 0
    assert fetched < tiles / 2


@pytest.mark.machine
def test_a_quarantined_slide_says_why(page):
    page.open(f"{page.address}/slide/lost")
    page.wait("document.getElementById('message')?.textContent.includes('Give one')")
