"""Front page of the report: cohort, quarantine, quality, tasks, cascades, compute and provenance in one file."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from typing import Any

import duckdb

from histomake.audit.environment import git_state, package_versions
from histomake.base.file_cache import FileCache
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined
from histomake.base.records.tissue import FIELD_OF_VIEW
from histomake.base.records.warning import SlideWarning
from histomake.config import Config
from histomake.model import reuse
from histomake.report import page
from histomake.report.adaptive_bags import adaptive_bags_section
from histomake.report.cascades_section import cascades_section
from histomake.report.cells_section import cells_section
from histomake.report.comparison_section import comparison_section
from histomake.report.cores_section import cores_section
from histomake.report.findings_section import findings_section
from histomake.report.generators_section import generators_section
from histomake.report.graphs_section import graphs_section
from histomake.report.jobs import compute_section, read_jobs
from histomake.report.outliers_section import outliers_section
from histomake.report.page import Html
from histomake.report.readers_section import readers_section
from histomake.report.sweeps_section import sweeps_section
from histomake.report.task_section import map_of_patches, task_section
from histomake.tissue.artefacts import NAMES

Row = dict[str, Any]
"""One slide's row of the catalog."""


def front_page(
    config: Config, layout: Layout, catalog: duckdb.DuckDBPyConnection, pages: set[str], cache: FileCache | None = None
) -> str:
    """The report of a run as HTML.

    ``catalog``: the cohort's database; ``pages``: slides that have their own page; ``cache``: benchmark files read by
    earlier runs.
    """
    rows = _rows(catalog, "SELECT * REPLACE (slide_id::VARCHAR AS slide_id) FROM slides ORDER BY slide_id")
    entries = catalog.execute("SELECT slide_id::VARCHAR, task FROM quarantine").fetchall()
    lost = {slide for slide, task in entries if task is None}
    usable = [row for row in rows if row["slide_id"] not in lost]
    folds = {name: reuse.folds(task) for name, task in config.tasks.items()}
    sections = {
        "Cohort": [_quarantine(layout), _damaged(catalog), _warnings(layout), _cohort(catalog, rows, lost, pages)],
        "Quality": [_quality(usable, layout), outliers_section(catalog, layout)],
        "Patches": [_patches(config, catalog)],
    }
    parts = [page.section(title, *content) for title, content in sections.items()]
    parts.append(readers_section(catalog))
    parts += [task_section(name, task, layout, catalog, folds[name]) for name, task in config.tasks.items()]
    parts.append(sweeps_section(config, layout))
    parts += [comparison_section(layout.comparison(*pair)) for pair in config.compare]
    jobs = read_jobs(layout, cache or FileCache())
    parts += [
        adaptive_bags_section(config, layout, catalog, jobs),
        _feature_maps(config, layout),
        cascades_section(config, layout),
        cores_section(config, layout, catalog),
        cells_section(config, layout, catalog),
        graphs_section(config, layout, catalog),
        _transfers(config, layout),
        generators_section(config, layout),
        compute_section(jobs),
        _provenance(config, rows),
    ]
    anchors = [*(s.lower() for s in sections), *(f"task-{name}" for name in config.tasks), "compute", "provenance"]
    links = page.tag("nav", *(page.link(anchor, f"#{anchor}") for anchor in anchors))
    head = [
        page.tag("h1", "histomake report"),
        links,
        _headline(rows, usable),
        findings_section(config, layout, catalog, pages),
        _model_cards(config, layout),
    ]
    return page.document("histomake report", [*head, *parts])


def _feature_maps(config: Config, layout: Layout) -> Html:
    if not config.explain.maps:
        return Html("")
    maps = [
        page.section(
            name, *map_of_patches(layout.feature_map(name), layout, of="slides"), level=3, anchor=f"map-{name}"
        )
        for name in config.explain.maps
    ]
    return page.section("Features", *maps)


def _transfers(config: Config, layout: Layout) -> Html:
    """The section of stain transfers, imported only if there are some, because it imports torch."""
    if not config.stain_transfers:
        return Html("")
    from histomake.report.transfers_section import transfers_section

    return transfers_section(config, layout)


def _rows(catalog: duckdb.DuckDBPyConnection, query: str) -> list[Row]:
    return catalog.sql(query).to_arrow_table().to_pylist()


def _headline(rows: list[Row], usable: list[Row]) -> Html:
    numbers: dict[str, object] = {
        "slides": len(rows),
        "patients": len({row["patient_id"] for row in rows}),
        "in quarantine": len(rows) - len(usable),
        "mm² of tissue": sum(row["tissue_area_mm2"] for row in usable),
    }
    return page.cards(numbers)


def _model_cards(config: Config, layout: Layout) -> Html:
    """Links to the model cards of all tasks."""
    if not config.tasks:
        return Html("")
    folder = layout.front_page.parent
    links = [page.link(name, os.path.relpath(layout.model_card(name), folder)) for name in config.tasks]
    shown = page.join([page.join([link, " "]) for link in links])
    return page.tag("p", "Model cards: ", shown)


def _quarantine(layout: Layout) -> Html:
    entries = Quarantined.read_list(layout.quarantine)
    if not entries:
        return page.tag("p", "No slide is in quarantine.")
    rows = [[e.slide_id, e.reason, e.stage, e.detail, e.remedy] for e in entries]
    text = f"{len(entries)} slide(s) are in quarantine and are excluded from all figures below."
    return page.join(
        [page.tag("p", text, class_="warn"), page.table(["slide", "reason", "stage", "detail", "remedy"], rows)]
    )


def _damaged(catalog: duckdb.DuckDBPyConnection) -> Html:
    """Table of the slides whose damage only tasks have met; nothing if there are none."""
    columns = ("slide_id::VARCHAR", "task", "reason", "stage", "detail", "remedy")
    query = f"SELECT {', '.join(columns)} FROM quarantine WHERE task IS NOT NULL ORDER BY ALL"  # noqa: S608
    rows = catalog.execute(query).fetchall()
    if not rows:
        return page.join([])
    text = (
        f"{len({slide for slide, *_ in rows})} slide(s) turned out to be damaged after their conversion. Stage train: "
        "models were made without the slide. Stages features and predict: the task has no prediction of the slide, and "
        "its metrics lack it. The slide's other results are kept."
    )
    table = page.table(["slide", "task", "reason", "stage", "detail", "remedy"], rows)
    return page.join([page.tag("p", text, class_="warn"), table])


def _warnings(layout: Layout) -> Html:
    """Table of the warnings about slides that are used; nothing if there are none."""
    warnings = SlideWarning.read_list(layout.warnings)
    if not warnings:
        return page.join([])
    text = f"{len(warnings)} warning(s) about slides that are used."
    table = page.table(["slide", "about", "warning"], [[w.slide_id, w.about, w.text] for w in warnings])
    return page.join([page.tag("p", text, class_="warn"), table])


def _cohort(catalog: duckdb.DuckDBPyConnection, rows: list[Row], lost: set[str], pages: set[str]) -> Html:
    roles: defaultdict[str, list[str]] = defaultdict(list)
    for slide, role in catalog.execute("SELECT slide_id::VARCHAR, role FROM splits ORDER BY task, fold").fetchall():
        roles[slide].append(role)
    body = []
    for row in rows:
        slide = row["slide_id"]
        name: object = page.link(slide, f"slides/{slide}.html") if slide in pages else slide
        used = ", ".join(f"{role} {count}x" if count > 1 else role for role, count in Counter(roles[slide]).items())
        if slide in lost:
            body.append([name, row["patient_id"], row["site"], "quarantine", None, None, None, None, None])
            continue
        size = f"{row['width']:,} x {row['height']:,}"
        resolution = f"{row['mpp']:.4g} ({row['mpp_source']})"
        stored = "copied" if row["tiles"] == "copied" else f"re-encoded, {row['tiles']}"
        drawn, tissue = row["annotation_format"], row["tissue_area_mm2"]
        body.append([name, row["patient_id"], row["site"], used, size, resolution, stored, drawn, tissue])
    header = ["slide", "patient", "site", "role", "pixels", "µm/px (source)", "tiles", "annotation", "tissue mm²"]
    return page.table(header, body)


def _quality(usable: list[Row], layout: Layout) -> Html:
    columns = ["clean_share", *(f"{name}_share" for name in NAMES.values())]
    body = []
    for row in usable:
        target = os.path.relpath(layout.tissue_view(row["slide_id"]), layout.front_page.parent)
        picture = page.link(row["slide_id"], target)
        body.append([picture, *(page.percent(row[column]) for column in columns), row["sharpness"]])
    text = "Shares of each slide's tissue. Patches that are mostly covered by an artefact are excluded."
    if fields := sum(row["tissue_method"] == FIELD_OF_VIEW for row in usable):
        text += f" {fields} image(s) without glass were taken as fields of view: all of them is tissue."
    return page.join([page.tag("p", text), page.table(["slide", "clean", *NAMES.values(), "sharpness (median)"], body)])


def _patches(config: Config, catalog: duckdb.DuckDBPyConnection) -> Html:
    """Table of kept patches per grid, and of excluded patches by reason."""
    body = []
    for name, grid in config.grids.items():
        query = f"SELECT excluded::VARCHAR, count(*) AS n FROM patches_{name} GROUP BY 1 ORDER BY n DESC"  # noqa: S608
        counts = dict(catalog.execute(query).fetchall())
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in counts.items() if reason)
        body.append([name, f"{grid.size} px at {grid.mpp:g} µm/px", counts.get("", 0), reasons or "none"])
    return page.table(["grid", "patch", "kept", "excluded, by reason"], body)


def _provenance(config: Config, rows: list[Row]) -> Html:
    code = git_state()
    state = {"code": f"{code.commit}{' with local changes' if code.modified else ''}" if code else "no git checkout"}
    versions = package_versions()
    slides = [
        [
            row["slide_id"],
            page.tag("span", row["sha256"], class_="mono"),
            row["bytes_in"],
        ]
        for row in rows
    ]
    text = "Every output has a sidecar (.meta.json) with its inputs, settings and code. To check a result against "
    command = page.tag("code", "histomake verify")
    return page.section(
        "Provenance",
        page.facts(state),
        page.tag("p", text, "the slide's bytes: ", command),
        page.folded(
            "slide fingerprints (sha256 of the source files)", page.table(["slide", "sha256", "bytes"], slides)
        ),
        page.folded("packages", page.facts(versions)),
        page.folded("configuration", page.tag("pre", json.dumps(config.dump(), indent=1, ensure_ascii=False))),
    )
