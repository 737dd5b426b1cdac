"""Cores of tissue microarrays: those of a slide for its page, and slides by number of cores for the front page."""

from __future__ import annotations

from pathlib import Path

import duckdb

from histomake.base.files import existing
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined
from histomake.config import Config
from histomake.report import page
from histomake.report.page import Html
from histomake.tissue.core_table import read_cores

SLIDES = """
SELECT slide_id::VARCHAR, count(*), median(diameter_um), min(tissue_mm2), median(tissue_mm2), max(tissue_mm2)
FROM cores GROUP BY 1 ORDER BY 1
"""
HEADER = ["slide", "cores", "median diameter, µm", "least tissue, mm²", "median tissue, mm²", "most tissue, mm²"]


def cores_section(config: Config, layout: Layout, catalog: duckdb.DuckDBPyConnection) -> Html:
    """Slides by number of cores, and those without a grid; nothing for cohorts without microarrays."""
    if config.microarray is None:
        return Html("")
    records = [read_cores(path)[1] for path in existing(layout.cores("*"), under=layout.results)]
    lost = [[one.slide_id, one.detail, one.remedy] for one in records if isinstance(one, Quarantined)]
    warnings = [[one.slide_id, text] for one in records if not isinstance(one, Quarantined) for text in one.warnings]
    slides = catalog.execute(SLIDES).fetchall()
    return page.section(
        "Cores",
        page.tag("p", f"{len(records) - len(lost)} of {len(records)} slides have a grid of cores."),
        page.table(["slide", "problem", "remedy"], lost) if lost else "",
        page.table(["slide", "warning"], warnings) if warnings else "",
        page.folded("by slide", page.table(HEADER, slides)) if slides else "",
        anchor="cores",
    )


def cores_of_slide(table: Path, picture: Path) -> Html:
    """The cores of a slide with their picture, or why there are none."""
    cores, record = read_cores(table)
    if isinstance(record, Quarantined):
        text = f"The slide has no cores: {record.detail}. {record.remedy}"
        return page.section("Cores", page.tag("p", text, class_="warn"))
    rows = [
        [core["core"], f"{core['x']:.0f}, {core['y']:.0f}", core["diameter_um"], core["tissue_mm2"]]
        for core in cores.to_pylist()
    ]
    warnings = [page.tag("p", text, class_="warn") for text in record.warnings]
    header = ["core", "centre, level-0 px", "diameter, µm", "tissue, mm²"]
    shown = page.picture(picture, "Cores with row and column")
    return page.section("Cores", *warnings, shown, page.folded("all cores", page.table(header, rows)))
