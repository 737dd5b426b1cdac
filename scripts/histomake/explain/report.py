"""Owns the front page: one file, readable offline, from the cohort and what was lost of it to models and provenance."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from histomake import provenance
from histomake.config import Config
from histomake.explain import page
from histomake.explain.page import Html
from histomake.explain.report_cascades import cascades_section
from histomake.explain.report_task import task_section
from histomake.files import read_json
from histomake.layout import Layout
from histomake.model import adopt
from histomake.patch.table import read_table
from histomake.quality import NAMES
from histomake.quarantine import quarantined

GPU_RULES = frozenset({"train", "predict", "embed", "attribute", "radhical_train", "radhical_maps", "radhical_segment"})
"""Rules that ask for a GPU where there is one; their wall time is GPU time."""

HEADLINES = (("patch", "auroc", "patch AUROC"), ("patch", "r2", "patch R²"), ("pixel", "dice", "pixel Dice"))
"""Level, metric and title of the one number by which each kind of task is known at a glance."""


@dataclass(frozen=True)
class Row:
    """One slide of the sheet and what every stage found out about it."""

    slide_id: str
    patient_id: str
    site: str
    records: dict[str, dict[str, Any]]

    @property
    def lost(self) -> dict[str, Any] | None:
        return quarantined(*self.records.values())


def front_page(config: Config, layout: Layout, sheet: Sequence[tuple[str, str, str]], pages: set[str]) -> str:
    """The report of a run as HTML.

    ``sheet``: (slide_id, patient_id, site) of every slide; ``pages``: slides that have a page of their own.
    """
    rows = [Row(*entry, _records(layout, entry[0])) for entry in sheet]
    folds = {name: adopt.folds(task) for name, task in config.tasks.items()}
    sections = {
        "Cohort": [_quarantine(layout), _cohort(config, layout, rows, pages)],
        "Quality": [_quality(rows)],
        "Patches": [_patches(config, layout, rows)],
    }
    parts = [page.section(title, *content) for title, content in sections.items()]
    parts += [task_section(name, task, layout, folds[name]) for name, task in config.tasks.items()]
    parts += [cascades_section(config, layout), _compute(layout), _provenance(config, rows)]
    anchors = [*(s.lower() for s in sections), *(f"task-{name}" for name in config.tasks), "compute", "provenance"]
    links = page.tag("nav", *(page.link(anchor, f"#{anchor}") for anchor in anchors))
    head = [page.tag("h1", "histomake report"), links, _headline(config, layout, rows)]
    return page.document("histomake report", [*head, *parts])


def _records(layout: Layout, slide: str) -> dict[str, dict[str, Any]]:
    places = {
        "manifest": layout.manifest(slide),
        "annotation": layout.annotation(slide),
        "tissue": layout.tissue(slide),
        "quality": layout.quality(slide),
    }
    return {stage: read_json(path) for stage, path in places.items()}


def _headline(config: Config, layout: Layout, rows: list[Row]) -> Html:
    numbers: dict[str, object] = {
        "slides": len(rows),
        "patients": len({row.patient_id for row in rows}),
        "in quarantine": sum(row.lost is not None for row in rows),
        "mm² of tissue": sum(row.records["tissue"]["area_mm2"] for row in rows if row.lost is None),
    }
    for name in config.tasks:
        # A task without slides to test has no metrics.
        metrics = read_json(layout.metrics(name)) if layout.metrics(name).is_file() else {"levels": {}}
        for level, metric, title in HEADLINES:
            found = metrics["levels"].get(level, {}).get("metrics", {}).get("all", {}).get(metric)
            if found and found["value"] is not None:
                interval = f" ({found['low']:.2f}–{found['high']:.2f})" if found["low"] is not None else ""
                numbers[f"{name}: {title}{interval}"] = f"{found['value']:.3f}"
    return page.cards(numbers)


def _quarantine(layout: Layout) -> Html:
    entries = read_json(layout.quarantine)
    if not entries:
        return page.tag("p", "No slide is in quarantine.")
    rows = [[e["slide_id"], e["reason"], e["stage"], e["detail"], e["remedy"]] for e in entries]
    text = f"{len(entries)} slide(s) are in quarantine and appear in no number below."
    return page.join(
        [page.tag("p", text, class_="warn"), page.table(["slide", "reason", "stage", "what", "remedy"], rows)]
    )


def _cohort(config: Config, layout: Layout, rows: list[Row], pages: set[str]) -> Html:
    roles: defaultdict[str, list[str]] = defaultdict(list)
    for name in config.tasks:
        for role in pq.read_table(layout.split(name)).to_pylist():
            roles[role["slide_id"]].append(role["role"])
    body = []
    for row in rows:
        manifest = row.records["manifest"]
        name: object = row.slide_id
        if row.slide_id in pages:
            name = page.link(row.slide_id, f"slides/{row.slide_id}.html")
        used = ", ".join(
            f"{role} {count}x" if count > 1 else role for role, count in Counter(roles[row.slide_id]).items()
        )
        if row.lost:
            body.append([name, row.patient_id, row.site or None, "quarantine", None, None, None, None, None])
            continue
        size = f"{manifest['width']:,} x {manifest['height']:,}"
        resolution = f"{manifest['mpp']:.4g} ({manifest['mpp_source']})"
        copied = manifest["levels"][0]["passthrough"]
        drawn = row.records["annotation"].get("format")
        stored = "copied" if copied else f"re-encoded, {manifest['levels'][0]['codec']}"
        tissue = row.records["tissue"]["area_mm2"]
        body.append([name, row.patient_id, row.site or None, used, size, resolution, stored, drawn, tissue])
    header = ["slide", "patient", "site", "role", "pixels", "µm/px (source)", "tiles", "annotation", "tissue mm²"]
    return page.table(header, body)


def _quality(rows: list[Row]) -> Html:
    body = []
    for row in rows:
        if row.lost is None:
            record = row.records["quality"]
            shares = [record["shares"][name] for name in NAMES.values()]
            picture = page.link(row.slide_id, f"../views/tissue/{row.slide_id}.jpg")
            body.append([picture, record["clean_share"], *shares, record["sharpness"]])
    text = "Shares of each slide's tissue. A patch mostly under an artefact is excluded for it."
    return page.join([page.tag("p", text), page.table(["slide", "clean", *NAMES.values(), "sharpness (median)"], body)])


def _patches(config: Config, layout: Layout, rows: list[Row]) -> Html:
    """Per grid: how many patches are kept, and why the others are not."""
    body = []
    for name, grid in config.grids.items():
        counts: Counter[str] = Counter()
        for row in rows:
            table, _ = read_table(layout.table(name, row.slide_id))
            for item in pa.compute.value_counts(table["excluded"].cast(pa.string())).to_pylist():
                counts[item["values"]] += item["counts"]
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in counts.most_common() if reason)
        body.append([name, f"{grid.size} px at {grid.mpp:g} µm/px", counts[""], reasons or "none"])
    return page.table(["grid", "patch", "kept", "excluded, by reason"], body)


def _compute(layout: Layout) -> Html:
    """Time and memory per rule, from the benchmark files."""
    folder = layout.results / "benchmarks"
    runs: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for path in sorted(folder.rglob("*.tsv")):
        with path.open(newline="") as stream:
            runs[path.relative_to(folder).parts[0].removesuffix(".tsv")] += list(csv.DictReader(stream, delimiter="\t"))
    body = []
    for rule, jobs in runs.items():
        seconds = sum(_number(job["s"]) for job in jobs)
        cpu = sum(_number(job["cpu_time"]) for job in jobs)
        peak = max(_number(job["max_rss"]) for job in jobs)
        body.append([rule, len(jobs), seconds, cpu, peak, seconds / 3600 if rule in GPU_RULES else None])
    body.sort(key=lambda row: -row[2])
    note = (
        f"{sum(row[2] for row in body) / 3600:.2f} hours of jobs, {sum(row[3] for row in body) / 3600:.2f} CPU hours, "
        f"{sum(row[5] or 0 for row in body):.2f} hours in rules that use a GPU where there is one."
    )
    table = page.table(["rule", "jobs", "seconds", "CPU seconds", "peak MB", "GPU-rule hours"], body)
    return page.section("Compute", page.tag("p", note), table)


def _number(text: str) -> float:
    """A benchmark value; Snakemake writes - or NA for a job too short to be measured."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _provenance(config: Config, rows: list[Row]) -> Html:
    code = provenance.git_state()
    state = {
        "code": f"{code['commit']}{' with local changes' if code['modified'] else ''}" if code else "no git checkout"
    }
    versions = provenance.package_versions()
    slides = [
        [
            row.slide_id,
            page.tag("span", row.records["manifest"].get("sha256"), class_="mono"),
            row.records["manifest"].get("bytes_in"),
        ]
        for row in rows
    ]
    text = "Every output has a sidecar (.meta.json) with its inputs, settings and code. To follow a prediction down to "
    command = page.tag("code", "python -m histomake verify")
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
