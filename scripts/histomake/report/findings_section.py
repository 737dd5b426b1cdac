"""First section of the report: what each task reached, on which test slides it is worst, and which slides it lost."""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path

import duckdb

from histomake.base.layout import Layout
from histomake.base.records.metrics import MetricsRecord
from histomake.config import Config
from histomake.report import page
from histomake.report.metrics_section import FEW_PATIENTS, headline
from histomake.report.page import Html

WORST = 3
"""Slides that are named per task."""

HEADER = ("task", "reached", "test patients", "worst test slides", "lost slides")

NOTE = (
    f"In brackets: interval by patients, unreliable with fewer than {FEW_PATIENTS} of them. Worst slides: of tasks on "
    "patches and pixels those of lowest accuracy, if it is below 1; of tasks on slides those called otherwise than "
    "labelled, with the score of the label. Lost slides, by role: in quarantine, or found to be damaged by the task."
)

Weak = tuple[str, str]
"""A slide, and how a task fails on it."""


def findings_section(
    config: Config, layout: Layout, catalog: duckdb.DuckDBPyConnection, pages: Collection[str]
) -> Html:
    """A row per task; nothing without tasks. ``pages``: slides that have a page of their own."""
    if not config.tasks:
        return Html("")
    rows = [
        [
            page.link(name, f"#task-{name}"),
            *_reached(layout.metrics(name)),
            _named(worst_slides(name, layout, catalog), pages),
            lost_slides(name, catalog),
        ]
        for name in config.tasks
    ]
    return page.section("Findings", page.table(HEADER, rows), page.tag("p", NOTE))


def _reached(path: Path) -> tuple[str, str | None]:
    """The headline figure of a task, and its number of test patients."""
    if not path.is_file():
        return "no test slides", None
    metrics = MetricsRecord.read(path)
    found = [title.replace(" (", f" {value} (", 1) for title, value in headline(metrics.levels)]
    few = ": unreliable" if metrics.patients < FEW_PATIENTS else ""
    return (found or ["see below"])[0], f"{metrics.patients:,}{few}"


def _named(slides: list[Weak], pages: Collection[str]) -> Html | None:
    lines = [
        page.tag("div", page.link(slide, f"slides/{slide}.html") if slide in pages else slide, f"({how})")
        for slide, how in slides
    ]
    return page.join(lines) if lines else None


def worst_slides(task: str, layout: Layout, catalog: duckdb.DuckDBPyConnection) -> list[Weak]:
    """Up to WORST test slides on which a task fails most; none where all is right or no truth is known."""
    return _least_accurate(layout.slide_metrics(task)) or _called_otherwise(task, catalog)


def _least_accurate(path: Path) -> list[Weak]:
    """Slides whose patches or pixels are predicted worst; of several labels, by the worst one."""
    if not path.is_file():
        return []
    least: dict[str, float] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["accuracy"]:
                least[row["slide_id"]] = min(least.get(row["slide_id"], 1.0), float(row["accuracy"]))
    wrong = sorted((value, slide) for slide, value in least.items() if value < 1)
    return [(slide, f"{value:.3f}") for value, slide in wrong[:WORST]]


def _called_otherwise(task: str, catalog: duckdb.DuckDBPyConnection) -> list[Weak]:
    """Slides with another class than their label, those first whose label has the lowest score."""
    view = f"bags_{task}"
    columns = catalog.execute("SELECT column_name FROM duckdb_columns() WHERE table_name = ?", [view]).fetchall()
    if ("predicted",) not in columns:
        return []
    query = (
        f'SELECT b.* REPLACE (b.slide_id::VARCHAR AS slide_id) FROM "{view}" b JOIN splits s '  # noqa: S608
        "ON s.task = ? AND s.fold = b.fold AND s.slide_id = b.slide_id AND s.role = 'test' "
        "WHERE predicted <> label"
    )
    found = catalog.execute(query, [task])
    names = [name for name, *_ in found.description or ()]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    wrong = sorted((row.get(f"score_{row['label']}", 0.0), row["slide_id"], i) for i, row in enumerate(rows))
    return [
        (slide, f"{rows[i]['label']}, called {rows[i]['predicted']}; {score:.2f}") for score, slide, i in wrong[:WORST]
    ]


def lost_slides(task: str, catalog: duckdb.DuckDBPyConnection) -> str:
    """Number of slides of a task that are in quarantine, or whose damage the task has met, by role."""
    query = (
        "SELECT s.role, count(DISTINCT s.slide_id) FROM quarantine q JOIN splits s USING (slide_id) "
        "WHERE s.task = ? AND (q.task IS NULL OR q.task = s.task) GROUP BY s.role ORDER BY s.role"
    )
    counted = catalog.execute(query, [task]).fetchall()
    return ", ".join(f"{number} {role}" for role, number in counted) or "none"
