"""Benchmarks of a finished cohort of 10,000 slides: cost of a run with nothing new and with one new slide."""

from __future__ import annotations

import csv
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import psutil

from tests.bench.figures import Figure
from tests.bench.finished_cohort import AGGREGATES, build_workshop, finish, pretend_jobs, write_sheet
from tests.workshop import Workshop

SLIDES = 10_000
RUNS = 3
NEW = ("--config", "plan=new")
ADDED = f"S{SLIDES:05d}"
OWN = {
    *("convert", "annotate", "presegment", "quality", "tabulate_patches", "overview", "predict_slide"),
    *("views_with_confidence",),
    "slide_page",
}
"""Rules with one job per predicted slide."""


def run(work: Path) -> list[Figure]:
    """Measure a no-op run, one more slide, the start of a remote job, and a trace."""
    folder = work / "scale"
    shutil.rmtree(folder, ignore_errors=True)
    workshop = build_workshop(folder, SLIDES)
    finish(workshop)
    return [
        *_nothing_to_do(workshop),
        *_nothing_to_do(workshop, *NEW),
        _remote_start(workshop),
        _trace(workshop),
        *_one_more(workshop),
    ]


def _watched(workshop: Workshop, *arguments: str) -> tuple[float, float, str]:
    """Return seconds, peak GB of the process with its children, and output of a Snakemake command."""
    start, peak = time.perf_counter(), 0
    with open(workshop.folder / "output.txt", "w+") as output:
        process = psutil.Popen(
            workshop.command("--cores", "2", *arguments),
            cwd=workshop.folder,
            env=workshop.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while process.poll() is None:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.1)
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(text[-3000:])
    return seconds, peak / 1e9, text


def _nothing_to_do(workshop: Workshop, *plan: str) -> list[Figure]:
    seconds, gigabytes, text = _watched(workshop, *plan)
    if "Nothing to be done" not in text:
        raise RuntimeError(f"the cohort is not finished:\n{text[-3000:]}")
    name = " ".join(["10,000 slides: no-op run", *plan])
    return [
        Figure(name, seconds, "<= 60", seconds <= 60, "s"),
        Figure(f"{name}, peak memory", gigabytes, "<= 2", gigabytes <= 2, "GB"),
    ]


def _remote_start(workshop: Workshop) -> Figure:
    """Measure the work of a job on a node before its rule runs: reading the workflow and planning its single job."""
    job = ("--mode", "remote", "--target-jobs", "presegment:slide=S00007", "--allowed-rules", "presegment")
    seconds = statistics.median(_watched(workshop, "--dry-run", "--nolock", "--force", *job)[0] for _ in range(RUNS))
    return Figure("10,000 slides: start of a remote job", seconds, "<= 3", seconds <= 3, "s", f"median of {RUNS}")


def _trace(workshop: Workshop) -> Figure:
    """Measure the trace from a prediction to the slide file on the command line."""
    command = [sys.executable, "-m", "histomake", "trace", "tissue_kind", f"S{SLIDES - 1:05d}", "500"]
    environment = workshop.environment() | {"PYTHONPATH": "scripts"}
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        done = subprocess.run(command, cwd=workshop.folder, env=environment, capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
        if "sha256" not in done.stdout or "\nconvert " not in done.stdout:
            raise RuntimeError(done.stdout)
    with duckdb.connect(workshop.results / "catalog.duckdb", read_only=True) as catalog:
        (count,) = catalog.execute("SELECT count(*) FROM predictions_tissue_kind").fetchone()
    seconds = statistics.median(times)
    return Figure("trace of a prediction", seconds, "<= 2", seconds <= 2, "s", f"among {count:,} predictions")


def _one_more(workshop: Workshop) -> list[Figure]:
    """Add a new slide to predict; measure planned jobs and the time of the aggregates."""
    write_sheet(workshop, SLIDES + 1)
    seconds, _, text = _watched(workshop, "--dry-run", "-p", *NEW)
    planned = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE) if rule != "total"}
    strangers = [rule for rule in planned if rule not in AGGREGATES | OWN]
    foreign = sum(count - 1 for count in planned.values()) + len(strangers)
    foreign += len(set(re.findall(r"slide=(\w+)", text)) - {ADDED})
    pretend_jobs(workshop)
    aggregates = sorted(AGGREGATES & set(planned) - {"all"})
    _watched(workshop, *NEW, "--forcerun", *aggregates)
    spent = {}
    for rule in aggregates:
        (path,) = list((workshop.results / "benchmarks").glob(f"{rule}*.tsv")) or list(
            (workshop.results / "benchmarks" / rule).glob("*.tsv")
        )
        with path.open() as stream:
            spent[rule] = float(next(csv.DictReader(stream, delimiter="\t"))["s"])
    total = sum(spent.values())
    note = ", ".join(f"{rule} {took:.1f}" for rule, took in spent.items())
    jobs = f"{sum(planned.values())} jobs planned in {seconds:.0f} s: {', '.join(sorted(planned))}"
    return [
        Figure("one more slide: jobs of other slides", foreign, "<= 0", foreign <= 0, "", jobs),
        Figure("one more slide: all aggregates", total, "<= 30", total <= 30, "s", note),
    ]
