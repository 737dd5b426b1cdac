"""Views of an embedding: an interactive page that needs no network, and a mosaic of patches."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pyarrow as pa
from PIL import Image

from histomake.explain.embedding import Embedding
from histomake.pictures import canvas

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCRIPT = Path(__file__).with_suffix(".js")
VIEWER = "http://127.0.0.1:8150"
"""Where the viewer answers, unless its port was changed; the page asks for another address."""

CATEGORIES = ("label", "predicted", "outcome", "slide_id", "patient_id", "site", "map")
ATLAS_COLUMNS = 64
ATLAS_ROWS = 64
ATLAS_QUALITY = 70
ATLAS_PX = 32
MOSAIC_CELLS = 40


def page(embedding: Embedding, *, title: str) -> str:
    """A self-contained HTML page: rotate, colour by any column, hover to see a patch, lasso patches and save as CSV.

    A click keeps the patch under the pointer; its link opens the viewer at its place.
    """
    payload = json.dumps(_payload(embedding), separators=(",", ":")).replace("<", "\\u003c")  # also "<!--"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>{STYLE}</style></head><body>
<header><h1>{html.escape(title)}</h1>
<label>colour by <select id="colour"></select></label>
<label><input type="radio" name="map" value="3" checked> 3-D</label>
<label><input type="radio" name="map" value="2"> 2-D</label>
<span>drag to
<label><input type="radio" name="drag" value="move" checked> turn or move</label>
<label><input type="radio" name="drag" value="lasso"> select</label></span>
<button id="save" disabled>save selection as CSV</button> <span id="count"></span>
<label class="last" title="where `histomake view` runs">viewer at
<input id="viewer" value="{html.escape(VIEWER)}"></label>
</header>
<main><canvas id="plot"></canvas><div id="legend"></div></main>
<aside id="card"><div id="thumb"></div><a id="open" target="_blank" rel="noopener">open in the viewer</a>
<dl id="facts"></dl></aside>
<script id="data" type="application/json">{payload}</script>
<script>{SCRIPT.read_text()}</script>
</body></html>
"""


STYLE = """
body { margin: 0; font: 15px system-ui, sans-serif; color: #222; height: 100vh; display: flex; flex-direction: column }
header { padding: 8px 16px; display: flex; flex-wrap: wrap; gap: 6px 18px; white-space: nowrap }
header { align-items: baseline; border-bottom: 1px solid #ddd }
h1 { font-size: 17px; margin: 0 }
main { flex: 1; min-height: 0; position: relative }
canvas { position: absolute; inset: 0; width: 100%; height: 100%; touch-action: none }
#legend { position: absolute; left: 14px; top: 10px; max-height: 95%; overflow: auto; font-size: 13px }
#legend i { display: inline-block; width: 11px; height: 11px; margin-right: 6px }
#legend .group { cursor: pointer } #legend .off { opacity: .35 }
.last { margin-left: auto } #viewer { width: 170px }
#open { display: block; margin-top: 6px }
aside { position: fixed; right: 16px; top: 64px; padding: 10px; display: none }
aside { background: #fff; border: 1px solid #ccc }
#thumb { width: 160px; height: 160px; image-rendering: auto; background-repeat: no-repeat }
dl { margin: 8px 0 0; display: grid; grid-template-columns: auto auto; gap: 2px 10px; font-size: 13px }
dt { color: #666 } dd { margin: 0 }
"""


class Category(TypedDict):
    """A column of names: each once, in the order of their colours, and the number of each patch's or -1."""

    names: list[str]
    codes: list[int]


def _payload(embedding: Embedding) -> Mapping[str, object]:
    table = embedding.table
    label, predicted = (table[name].to_pylist() for name in ("label", "predicted"))
    outcome = [None if a is None else "right" if a == b else "wrong" for a, b in zip(label, predicted, strict=True)]
    table = table.append_column("outcome", pa.array(outcome, pa.string()))
    numbers = [n for n in table.column_names if n == "tissue" or n.startswith(("score_", "target_", "area_"))]
    categories = {
        name: _category(table[name].to_pylist(), first=classes_of(table))
        for name in CATEGORIES
        if name in table.column_names
    }
    return {
        "categories": {name: found for name, found in categories.items() if found["names"]},
        "numbers": {name: _floats(table[name].to_numpy(zero_copy_only=False)) for name in numbers},
        "ids": {name: table[name].to_pylist() for name in ("patch_id", "x", "y", "span")},
        "plane": [_floats(table[f"umap2_{axis}"].to_numpy()) for axis in "xy"],
        "space": [_floats(table[f"umap3_{axis}"].to_numpy()) for axis in "xyz"],
        "palette": [f"rgb{colour}" for colour in canvas.PALETTE],
        "atlas": {
            "px": ATLAS_PX,
            "columns": ATLAS_COLUMNS,
            "rows": ATLAS_ROWS,
            "images": [_data_uri(atlas) for atlas in atlases(embedding.thumbs)],
        },
    }


def classes_of(table: pa.Table) -> list[str]:
    """The model's classes in order, so that a class has the same colour in all pictures."""
    return [name.removeprefix("score_") for name in table.column_names if name.startswith("score_")]


def _category(values: list[str | None], *, first: list[str]) -> Category:
    found = {value for value in values if value is not None}
    names = [*first, *sorted(found - set(first))] if found & set(first) else sorted(found)
    number = {name: i for i, name in enumerate(names)}
    return {"names": names, "codes": [number[v] if v is not None else -1 for v in values]}


def _floats(values: NDArray) -> str:
    """Encode as little-endian float32 in base64: a third of the size of decimal digits."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def atlases(thumbs: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Thumbnails in sheets of ATLAS_COLUMNS x ATLAS_ROWS, in row-major order; the last sheet is shorter."""
    if not len(thumbs):
        return []
    small = np.stack([np.asarray(Image.fromarray(t).resize((ATLAS_PX, ATLAS_PX))) for t in thumbs])
    sheets = []
    for start in range(0, len(small), ATLAS_COLUMNS * ATLAS_ROWS):
        part = small[start : start + ATLAS_COLUMNS * ATLAS_ROWS]
        rows = -(-len(part) // ATLAS_COLUMNS)
        full = np.full((rows * ATLAS_COLUMNS, ATLAS_PX, ATLAS_PX, 3), 255, np.uint8)
        full[: len(part)] = part
        grid = full.reshape(rows, ATLAS_COLUMNS, ATLAS_PX, ATLAS_PX, 3).transpose(0, 2, 1, 3, 4)
        sheets.append(np.ascontiguousarray(grid).reshape(rows * ATLAS_PX, ATLAS_COLUMNS * ATLAS_PX, 3))
    return sheets


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=ATLAS_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def mosaic(embedding: Embedding, *, title: str) -> NDArray[np.uint8]:
    """Draw the 2-D map as uint8 (h, w, 3): each cell shows the patch nearest to its centre, framed by its class."""
    table, thumbs = embedding.table, embedding.thumbs
    place = np.stack([table["umap2_x"].to_numpy(), table["umap2_y"].to_numpy()], axis=1)
    low, extent = place.min(axis=0), np.maximum(np.ptp(place, axis=0), 1e-6)
    cells = max(1, min(MOSAIC_CELLS, int(2 * np.sqrt(len(place)))))
    position = (place - low) / extent * cells
    position[:, 1] = cells - position[:, 1]
    cell = np.clip(position.astype(int), 0, cells - 1)
    distance = np.abs(position - cell - 0.5).max(axis=1)
    colours = canvas.class_colours(classes_of(table))
    predicted = table["predicted"].to_pylist()
    px = thumbs.shape[1]
    picture = np.full((cells * px, cells * px, 3), 255, np.uint8)
    for i in np.argsort(-distance, kind="stable"):
        x, y = cell[i] * px
        tile = thumbs[i].copy()
        frame = colours.get(predicted[i], canvas.GREY)
        tile[:2] = tile[-2:] = frame
        tile[:, :2] = tile[:, -2:] = frame
        picture[y : y + px, x : x + px] = tile
    legend = {f"predicted {name}": colour for name, colour in colours.items() if name in predicted}
    return canvas.with_legend(picture, title, legend)
