"""Building blocks of HTML reports: escaped text, tables, pictures. Pages are self-contained."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

JPEG_QUALITY = 82
MAX_WIDTH_PX = 2200
MIN_CAPTION_PX = 160

WITH_INTERVAL = re.compile(r"[-+]?[\d.]+ (\([^()]*\)|± [\d.]+)")

STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2328; max-width: 1180px; margin: 0 auto; padding: 0 24px 64px }
h1 { font-size: 30px; margin: 32px 0 4px } h2 { margin: 44px 0 10px; border-bottom: 2px solid #0072b2 }
h3 { margin: 26px 0 6px } p { max-width: 78ch }
nav { font-size: 14px; color: #57606a } nav a { margin-right: 14px } a { color: #0061a0 }
table { border-collapse: collapse; font-size: 14px; margin: 8px 0 }
th, td { padding: 4px 12px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e3e6ea }
td.value { white-space: nowrap }
th { color: #57606a; font-weight: 600 } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0 }
.card { border: 1px solid #d0d7de; border-radius: 8px; padding: 10px 16px; min-width: 130px }
.card b { display: block; font-size: 24px } .card span { color: #57606a; font-size: 13px }
.warn { background: #fff4e0; border-left: 4px solid #d55e00; padding: 8px 14px; margin: 12px 0 }
figure { margin: 12px 0; display: inline-block; vertical-align: top } figcaption { color: #57606a; font-size: 13px }
img { max-width: 100%; height: auto; border: 1px solid #e3e6ea }
.wide { overflow-x: auto } .row { display: flex; flex-wrap: wrap; gap: 18px } details { margin: 8px 0 }
pre { font-size: 12px; background: #f6f8fa; padding: 12px; overflow-x: auto } code { font-size: 13px }
.mono { font-family: ui-monospace, monospace; font-size: 12px }
@media print { nav, details { display: none } h2 { break-after: avoid } figure { break-inside: avoid } }
"""

NO_DEAD_LINKS = (
    'if (location.protocol === "data:") '
    """document.querySelectorAll('a:not([href^="#"])').forEach((a) => a.replaceWith(a.textContent));"""
)
"""Snakemake's one-file report embeds a page without its neighbours, so links to other files are removed there."""


class Html(str):
    """Text that is already HTML. Every other string is escaped when it is added to a page."""

    __slots__ = ()


def safe(value: object) -> Html:
    """Convert a value to HTML: Html stays as it is, None becomes a dash, everything else is escaped."""
    if isinstance(value, Html):
        return value
    return Html(html.escape("–" if value is None else str(value)))


def join(parts: Iterable[object]) -> Html:
    """Concatenate parts."""
    return Html("\n".join(safe(part) for part in parts))


def document(title: str, parts: Iterable[object]) -> str:
    """A whole page."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{safe(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>\n'
        f"{join(parts)}\n<script>{NO_DEAD_LINKS}</script></body></html>\n"
    )


def tag(name: str, *parts: object, **attributes: str) -> Html:
    """An HTML element; ``class_`` is the class attribute."""
    given = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{join(parts)}</{name}>")


def section(title: str, *parts: object, level: int = 2, anchor: str = "") -> Html:
    """A heading and its content."""
    return join([tag(f"h{level}", title, id=anchor or title.lower().replace(" ", "-")), *parts])


def link(text: object, target: str) -> Html:
    """A link."""
    return tag("a", text, href=target)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table. Columns of numbers are right-aligned; floats have three significant digits; intervals stay on a line."""
    body = [list(row) for row in rows]
    if not body:
        return tag("p", "None.")
    numeric = [all(isinstance(row[i], int | float | None) for row in body) for i in range(len(header))]
    classes = [{"class_": "number"} if flag else {} for flag in numeric]
    head = tag("tr", *(tag("th", text, **kind) for text, kind in zip(header, classes, strict=True)))
    lines = [
        tag("tr", *(tag("td", shown(cell), **(kind or _kept(cell))) for cell, kind in zip(row, classes, strict=True)))
        for row in body
    ]
    return tag("div", tag("table", head, *lines), class_="wide")


def _kept(cell: object) -> dict[str, str]:
    """Class of a value with an interval or error: it may not be broken, not even at the dash."""
    return {"class_": "value"} if isinstance(cell, str) and WITH_INTERVAL.fullmatch(cell) else {}


def shown(value: object) -> object:
    """Format a number for display."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return value


def percent(share: float | None) -> str | None:
    """Format a share as a percentage; None stays None."""
    return None if share is None else f"{share:.1%}"


def facts(values: Mapping[str, object]) -> Html:
    """A two-column table of names and values."""
    return tag("table", *(tag("tr", tag("th", name), tag("td", shown(value))) for name, value in values.items()))


def cards(values: Mapping[str, object]) -> Html:
    """Large numbers, each with a caption."""
    return tag(
        "div",
        *(tag("div", tag("b", shown(v)), tag("span", name), class_="card") for name, v in values.items()),
        class_="cards",
    )


def folded(summary: str, *parts: object) -> Html:
    """A collapsed element that opens on a click."""
    return tag("details", tag("summary", summary), *parts)


def picture(
    source: NDArray[np.uint8] | Path, caption: object = "", *, width: int | None = None, at_most: int | None = None
) -> Html:
    """Embed pixels (h, w, 3) or an image file as JPEG.

    ``width``: on the page, in px. ``at_most``: width of pictures that are wider; others keep theirs.
    """
    image = Image.open(source).convert("RGB") if isinstance(source, Path) else Image.fromarray(source)
    if image.width > MAX_WIDTH_PX:
        image = image.resize((MAX_WIDTH_PX, round(image.height * MAX_WIDTH_PX / image.width)), Image.Resampling.LANCZOS)
    width = min(at_most, image.width) if at_most else width
    return jpeg_picture(_jpeg(image), caption, width=width)


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels (h, w, 3) as JPEG of the quality of pages, for `jpeg_picture`."""
    return _jpeg(Image.fromarray(pixels))


def jpeg_picture(content: bytes, caption: object = "", *, width: int | None = None) -> Html:
    """Embed a JPEG as it is; ``width``: on the page, in px."""
    return _figure("image/jpeg", content, caption, width)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def plot(figure: Figure, caption: object = "", *, width: int | None = None) -> Html:
    """Embed a matplotlib figure as SVG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "histomake"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _figure("image/svg+xml", buffer.getvalue(), caption, width)


def _figure(kind: str, content: bytes, caption: object, width: int | None) -> Html:
    # A caption wraps below its picture, so that several pictures fit in a row.
    outer = f' style="max-width:{max(width, MIN_CAPTION_PX)}px"' if width else ""
    size = f' style="width:{width}px"' if width else ""
    data = base64.b64encode(content).decode()
    return Html(
        f'<figure{outer}><img{size} alt="{html.escape(str(caption))}" src="data:{kind};base64,{data}">'
        f"<figcaption>{safe(caption)}</figcaption></figure>"
    )


def blank(width: float, height: float) -> Figure:
    """An empty matplotlib figure of a size in inches, for which no display is needed."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
