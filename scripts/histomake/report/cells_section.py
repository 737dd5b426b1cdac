"""Report section of cells: how many of each class and on each slide, and what is missing."""

from __future__ import annotations

import duckdb

from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined
from histomake.cells.table import read_record
from histomake.config import Config
from histomake.report import page
from histomake.report.page import Html

CLASSES = """
SELECT coalesce(class, 'all'), count(*), count(DISTINCT slide_id),
    median(area_um2), avg(eccentricity), avg(haematoxylin)
FROM {table} GROUP BY 1 ORDER BY 1
"""
SLIDES = """
SELECT slide_id::VARCHAR, count(*), count(*) / nullif(any_value(tissue_area_mm2), 0), median(area_um2)
FROM {table} JOIN slides USING (slide_id) GROUP BY 1 ORDER BY 1
"""


def cells_section(config: Config, layout: Layout, catalog: duckdb.DuckDBPyConnection) -> Html:
    """Cells by name under ``cells``; nothing if there are none."""
    parts = [_cells(name, cells.source, layout, catalog) for name, cells in config.cells.items()]
    return page.section("Cells", *parts, anchor="cells") if parts else Html("")


def _cells(name: str, source: str, layout: Layout, catalog: duckdb.DuckDBPyConnection) -> Html:
    records = [read_record(path) for path in existing(layout.cells(name, "*"), under=layout.results)]
    if not records:
        return page.section(name, page.tag("p", "No slide has cells of this source."), level=3)
    table = f'"cells_{name}"'
    classes = catalog.execute(CLASSES.format(table=table)).fetchall()
    slides = catalog.execute(SLIDES.format(table=table)).fetchall()
    lost = [[r.slide_id, r.stage, r.detail, r.remedy] for r in records if isinstance(r, Quarantined)]
    warnings = [[r.slide_id, text] for r in records if not isinstance(r, Quarantined) for text in r.warnings]
    header = ["class", "cells", "slides", "median area, µm²", "mean eccentricity", "mean haematoxylin density"]
    return page.section(
        name,
        page.tag("p", f"Source: {source}; {len(records)} slides, {len(lost)} of them without cells."),
        page.table(header, classes) if classes else page.tag("p", "No cell was found.", class_="warn"),
        page.table(["slide", "stage", "problem", "remedy"], lost) if lost else "",
        page.table(["slide", "warning"], warnings) if warnings else "",
        page.folded("by slide", page.table(["slide", "cells", "per mm² of tissue", "median area, µm²"], slides)),
        level=3,
    )
