"""Page with pictures of the slides, those first that look least like the others of the cohort."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import duckdb
import msgspec

from histomake.base.errors import SlideError
from histomake.base.file_cache import FileCache
from histomake.base.layout import Layout
from histomake.base.units import Level0Pixels
from histomake.cohort.outliers import FEWEST, MEASURES, ODD
from histomake.config import Grid
from histomake.pictures.canvas import Box
from histomake.pictures.glance import CLOSE_MPP, SIDE_PX, glance
from histomake.report import page
from histomake.report.outliers_section import EXPLAINED, FEW, deviation_text
from histomake.report.page import Html
from histomake.slide.reader import open_slide

MOST = 200
"""Number of slides that are shown."""
TYPICAL = 3
"""Number of typical slides that are shown for comparison."""
SHOWN_PX = 2 * SIDE_PX * 3 // 4
"""Width of a picture on the page."""
MOSTLY_TISSUE = 0.8
"""Share of tissue of the patch in the close view, if there is such a patch."""

COHORT = (
    "SELECT measure, count(*), any_value(median), any_value(spread), count(*) FILTER (odd) "
    "FROM outliers GROUP BY measure"
)
ORDERED = (
    "SELECT slide_id::VARCHAR, any_value(site), max(oddness) FROM outliers JOIN slides USING (slide_id) "
    "GROUP BY slide_id ORDER BY max(oddness) DESC NULLS LAST, slide_id"
)
MEASURED = (
    "SELECT measure, value, median, z, odd FROM outliers WHERE slide_id = ? AND oddness > 0 "
    "ORDER BY oddness DESC, measure"
)


class OddSlide(NamedTuple):
    """A slide of the page; ``oddness``: the largest of its measures, null in a small cohort."""

    slide_id: str
    site: str | None
    oddness: float | None


class OddPicture(msgspec.Struct, frozen=True):
    """The picture of a slide as JPEG, or why it has none."""

    picture: bytes = b""
    lost: str | None = None


def outliers_page(
    catalog: duckdb.DuckDBPyConnection,
    layout: Layout,
    *,
    grid: tuple[str, Grid],
    pages: Collection[str],
    cache: FileCache | None = None,
) -> str:
    """The page as HTML.

    ``catalog``: the cohort's database; ``grid``: name and grid whose patches are shown closely; ``pages``: slides that
    have a page of their own; ``cache``: pictures drawn by earlier runs, by the patch table of the slide, which is made
    again whenever its store is.
    """
    slides = [OddSlide(*row) for row in catalog.execute(ORDERED).fetchall()]
    head = [page.tag("h1", "Slides by oddness"), page.tag("nav", page.link("report", layout.front_page.name))]
    scored = any(slide.oddness is not None for slide in slides)
    shown = slides[:MOST]
    typical = slides[: -TYPICAL - 1 : -1] if scored and len(slides) > TYPICAL else []
    names = [slide.slide_id for slide in (*shown, *typical)]
    drawn = _pictures(names, layout, grid[0], _close_views(catalog, grid, names), cache or FileCache())

    def row(some: list[OddSlide], *, named: bool = True) -> Html:
        captions = [_caption(slide, catalog if named else None, layout, pages) for slide in some]
        figures = [_figure(drawn[slide.slide_id], lines) for slide, lines in zip(some, captions, strict=True)]
        return page.tag("div", *figures, class_="row")

    if not scored:
        return page.document("Slides by oddness", [*head, page.tag("p", FEW), row(shown)])
    odd = sum(slide.oddness is not None and slide.oddness >= ODD for slide in slides)
    limit = f" The first {MOST} are shown." if len(slides) > MOST else ""
    text = f"Each slide, and a part from the middle of its tissue at {CLOSE_MPP:g} µm per pixel.{limit}"
    parts = [
        page.tag("p", f"{odd} of {len(slides)} slides have an outlier. {EXPLAINED}"),
        page.section("Measures", _cohort(catalog)),
        page.section("Typical slides, for comparison", row(typical, named=False), anchor="typical"),
        page.section("Oddest first", page.tag("p", text), row(shown)),
    ]
    return page.document("Slides by oddness", [*head, *parts])


def _cohort(catalog: duckdb.DuckDBPyConnection) -> Html:
    """Table of the measures over the cohort."""
    found = {name: rest for name, *rest in catalog.execute(COHORT).fetchall()}
    rows = [[measure.title, measure.unit.strip(), *found[name]] for name, measure in MEASURES.items() if name in found]
    table = page.table(["measure", "unit", "slides", "median", "robust standard deviation", "outliers"], rows)
    text = (
        "Glass is measured from 0 to 255, stains in optical density, at the resolution of the tissue mask. "
        "Haematoxylin and eosin are meant for H&E; stain strength and hue fit any stain. The deviation of the area of "
        f"tissue is in powers of ten. Measures of fewer than {FEWEST} slides are not compared."
    )
    return page.join([table, page.tag("p", text)])


def _close_views(catalog: duckdb.DuckDBPyConnection, grid: tuple[str, Grid], slides: list[str]) -> dict[str, Box]:
    """The patch nearest to the middle of a slide's tissue, kept or not, by slide."""
    name, shape = grid
    query = (
        f"WITH found AS (SELECT slide_id::VARCHAR AS slide, x, y, tissue FROM patches_{name} "  # noqa: S608
        "WHERE tissue > 0 AND slide_id::VARCHAR IN (SELECT unnest(?))), "
        "middle AS (SELECT slide, median(x) AS mx, median(y) AS my FROM found GROUP BY slide), "
        "nearest AS (SELECT slide, arg_min((x, y), (tissue < ?, abs(x - mx) + abs(y - my), y, x)) AS place "
        "FROM found JOIN middle USING (slide) GROUP BY slide) "
        "SELECT slide, place, mpp FROM nearest JOIN slides ON slide_id::VARCHAR = slide"
    )
    found = catalog.execute(query, [slides, MOSTLY_TISSUE]).fetchall()
    views: dict[str, Box] = {}
    for slide, (x, y), mpp in found:
        span = Level0Pixels(round(shape.size * shape.mpp / mpp))
        views[slide] = (Level0Pixels(x), Level0Pixels(y), span, span)
    return views


def _caption(
    slide: OddSlide, catalog: duckdb.DuckDBPyConnection | None, layout: Layout, pages: Collection[str]
) -> list[Html]:
    """Lines below a picture: the slide, and with a ``catalog`` its outliers or else what deviates most."""
    name = slide.slide_id
    target = layout.slide_page(name) if name in pages else layout.tissue_view(name)
    lines = [page.join([page.link(name, os.path.relpath(target, layout.outliers_page.parent)), slide.site or ""])]
    measured = catalog.execute(MEASURED, [name]).fetchall() if catalog else []
    for i, (measure, value, median, z, odd) in enumerate(measured):
        if odd or i == 0:
            text = deviation_text(measure, value, median, z)
            lines.append(page.tag("b", text) if odd else page.safe(text))
    return lines


def _pictures(
    slides: Iterable[str], layout: Layout, grid: str, close: Mapping[str, Box], cache: FileCache
) -> dict[str, OddPicture]:
    """Pictures of slides, by their ids. Those of unchanged slides are in the cache."""

    def draw(table: str) -> str:
        slide = Path(table).stem
        try:
            with open_slide(layout.manifest(slide)) as reader:
                found = OddPicture(picture=page.jpeg(glance(reader, close.get(slide))))
        except SlideError as error:
            found = OddPicture(lost=error.detail)
        return msgspec.json.encode(found).decode()

    tables = {slide: layout.table(grid, slide) for slide in slides}
    drawn = cache.read_records(tables.values(), lambda text, _: msgspec.json.decode(text, type=OddPicture), draw)
    return dict(zip(tables, drawn, strict=True))


def _figure(drawn: OddPicture, lines: list[Html]) -> Html:
    caption = page.join([page.join([line, Html("<br>")]) for line in lines])
    if drawn.lost is not None:
        return page.tag("figure", page.tag("figcaption", caption, drawn.lost))
    return page.jpeg_picture(drawn.picture, caption, width=SHOWN_PX)
