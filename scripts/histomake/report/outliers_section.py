"""Report section of slides that look unlike the others of the cohort."""

from __future__ import annotations

import os

import duckdb

from histomake.base.layout import Layout
from histomake.cohort.outliers import FEWEST, MEASURES, ODD
from histomake.report import page
from histomake.report.page import Html

MOST = 20
"""Number of slides in the section; all are on the page of outliers."""
EXPLAINED = (
    "z is the distance to the median of the cohort in robust standard deviations (1.4826 times the median absolute "
    f"deviation, and at least a spread that can be seen). From {ODD:g} on, a value is an outlier (Iglewicz and Hoaglin "
    "1993). Outliers are shown, not excluded."
)
FEW = f"There are fewer than {FEWEST} usable slides, too few to compare them with a cohort."
QUERY = (
    "SELECT slide_id::VARCHAR, list((measure, value, median, z) ORDER BY oddness DESC, measure) "
    "FROM outliers WHERE odd GROUP BY slide_id ORDER BY max(oddness) DESC, slide_id"
)


def outliers_section(catalog: duckdb.DuckDBPyConnection, layout: Layout) -> Html:
    """The slides with the strongest outliers, and a link to the page with pictures of them."""
    target = os.path.relpath(layout.outliers_page, layout.front_page.parent)
    pictures = page.tag("p", page.link("Pictures of the slides, oddest first", target))
    counted = catalog.execute("SELECT count(DISTINCT slide_id), count(z) FROM outliers").fetchone() or (0, 0)
    slides, scored = counted
    if not scored:
        return page.section("Outliers", page.tag("p", FEW), pictures, level=3)
    rows = catalog.execute(QUERY).fetchall()
    text = f"{len(rows)} of {slides} slides have an outlier. {EXPLAINED}"
    body = [[slide, "; ".join(deviation_text(*one) for one in found)] for slide, found in rows[:MOST]]
    table = page.table(["slide", "outliers"], body) if body else Html("")
    more = page.tag("p", f"The {MOST} oddest slides are listed.") if len(rows) > MOST else Html("")
    return page.section("Outliers", page.tag("p", text), table, more, pictures, level=3)


def deviation_text(measure: str, value: float, median: float, z: float) -> str:
    """A measure of a slide beside the cohort, in words."""
    title, unit, *_ = MEASURES[measure]
    return f"{title} {page.shown(value)}{unit} (median {page.shown(median)}, z {z:+.1f})"
