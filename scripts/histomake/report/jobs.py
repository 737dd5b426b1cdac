"""Time and memory of the jobs of a run, from their benchmark files, and the report section of them."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Mapping

import msgspec

from histomake.base.file_cache import FileCache
from histomake.base.layout import Layout
from histomake.report import page
from histomake.report.page import Html

GPU_RULES = frozenset(
    {
        "train",
        "train_pixel_bags",
        "features",
        "predict_slide",
        "predict_pixel_bag",
        "embed",
        "attribute",
        "cascade_compare",
        "cascade_predict",
        "train_transfer",
        "transfer_slide",
        "measure_transfer",
        "train_generator",
        "measure_generator",
        "sample_generator",
        "draw_samples",
    }
    | {f"radhical_{step}" for step in ("train", "maps", "segment", "compare")}
)
"""Rules that request a GPU if there is one; their wall time counts as GPU time."""

Job = tuple[float, float, float]
"""Seconds, CPU seconds and peak MB of one job, from its benchmark file."""

Jobs = Mapping[tuple[str, ...], list[Job]]
"""Runs of every job, by its rule and what distinguishes it from others of the rule."""


def read_jobs(layout: Layout, cache: FileCache) -> Jobs:
    """Read all benchmark files; ``cache``: those read by earlier runs."""
    folder = layout.benchmarks
    names = (f"{place}/{name}" for place, _, names in os.walk(folder) for name in names)
    paths = sorted(name for name in names if name.endswith(".tsv"))
    return {
        tuple(path[len(f"{folder}/") :].removesuffix(".tsv").split("/")): msgspec.json.decode(
            text or "[]", type=list[Job]
        )
        for path, text in zip(paths, cache.read_texts(paths, _benchmark), strict=True)
    }


def compute_section(jobs: Jobs) -> Html:
    """Time and memory per rule."""
    spent: defaultdict[str, list[Job]] = defaultdict(list)
    for (rule, *_), runs in jobs.items():
        spent[rule] += runs
    body = []
    for rule, runs in spent.items():
        if not runs:
            continue
        seconds, cpu, peak = zip(*runs, strict=True)
        hours = sum(seconds) / 3600 if rule in GPU_RULES else None
        body.append([rule, len(runs), sum(seconds), sum(cpu), max(peak), hours])
    body.sort(key=lambda row: -row[2])
    note = (
        f"{sum(row[2] for row in body) / 3600:.2f} job hours, {sum(row[3] for row in body) / 3600:.2f} CPU hours, "
        f"{sum(row[5] or 0 for row in body):.2f} hours in rules that use a GPU if there is one."
    )
    table = page.table(["rule", "jobs", "seconds", "CPU seconds", "peak MB", "GPU-rule hours"], body)
    return page.section("Compute", page.tag("p", note), table)


def _benchmark(path: str) -> str:
    """The jobs of a benchmark file, as JSON."""
    with open(path) as stream:
        jobs = csv.DictReader(stream, delimiter="\t")
        found = [[_number(job[column]) for column in ("s", "cpu_time", "max_rss")] for job in jobs]
    return msgspec.json.encode(found).decode()


def _number(text: str) -> float:
    """Parse a benchmark value. Snakemake writes - or NA for a job that is too short to measure."""
    try:
        return float(text)
    except ValueError:
        return 0.0
