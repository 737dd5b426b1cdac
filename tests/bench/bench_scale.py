"""Benchmarks of a finished cohort of 10,000 slides with a patch cascade and a task on bags of chosen patches.

What a run with nothing new costs, what one with one new slide does, and how long its aggregates take.
"""

from __future__ import annotations

import csv
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import duckdb
import psutil

from tests.bench.figures import Figure
from tests.bench.finished_cohort import AGGREGATES, build_workshop, finish, pretend_jobs, write_sheet
from tests.workshop import Job, Workshop, printed_jobs

SLIDES = 10_000
RUNS = 3
ALL = ("--config", "plan=all")


def run(work: Path) -> list[Figure]:
    """Measure a no-op run, one more slide, the start of a remote job, and a trace."""
    folder = work / "scale"
    shutil.rmtree(folder, ignore_errors=True)
    workshop = build_workshop(folder, SLIDES)
    finish(workshop)
    return [
        *_nothing_to_do(workshop, bar=10),
        *_nothing_to_do(workshop, *ALL, bar=60),
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


def _nothing_to_do(workshop: Workshop, *plan: str, bar: float) -> list[Figure]:
    seconds, gigabytes, text = _watched(workshop, *plan)
    if "Nothing to be done" not in text:
        raise RuntimeError(f"the cohort is not finished:\n{text[-3000:]}")
    name = " ".join([f"{SLIDES:,} slides: no-op run", *plan])
    return [
        Figure(name, seconds, f"<= {bar:g}", seconds <= bar, "s"),
        Figure(f"{name}, peak memory", gigabytes, "<= 2", gigabytes <= 2, "GB"),
    ]


def _remote_start(workshop: Workshop) -> Figure:
    """Measure the work of a job on a node before its rule runs: reading the workflow and planning its single job."""
    job = ("--mode", "remote", "--target-jobs", "presegment:slide=S00007", "--allowed-rules", "presegment")
    seconds = statistics.median(_watched(workshop, "--dry-run", "--nolock", "--force", *job)[0] for _ in range(RUNS))
    return Figure(f"{SLIDES:,} slides: start of a remote job", seconds, "<= 3", seconds <= 3, "s", f"median of {RUNS}")


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
    seconds, _, text = _watched(workshop, "--dry-run", "-p")
    planned = printed_jobs(text)
    foreign = [job for job in planned if not _belongs(job, f"S{SLIDES:05d}")]
    pretend_jobs(workshop)
    started = time.time()
    whole, gigabytes, _ = _watched(workshop)
    wanted = {job.rule for job in planned} & AGGREGATES - {"all"}
    spent = {rule: _seconds_since(started, workshop, rule) for rule in sorted(wanted)}
    total = sum(spent.values())
    counts = ", ".join(f"{rule} {count}" for rule, count in sorted(Counter(job.rule for job in planned).items()))
    parts = ", ".join(f"{rule} {took:.1f}" for rule, took in spent.items())
    note = f"{parts}; their run took {whole:.0f} s, {gigabytes:.1f} GB"
    jobs = f"{len(planned)} jobs planned in {seconds:.0f} s: {counts}"
    return [
        Figure("one more slide: jobs of other slides", len(foreign), "<= 0", not foreign, "", jobs),
        Figure("one more slide: all aggregates", total, "<= 20", total <= 20, "s", note),
    ]


def _belongs(job: Job, slide: str) -> bool:
    """Whether a job is that of a slide or an aggregate."""
    return job.rule in AGGREGATES if job.slide is None else job.slide == slide


def _seconds_since(started: float, workshop: Workshop, rule: str) -> float:
    """Return the seconds that the jobs of an aggregate took. Raises RuntimeError if none of them ran since."""
    folder = workshop.results / "benchmarks"
    rows = []
    for path in (*folder.glob(f"{rule}.tsv"), *folder.glob(f"{rule}/**/*.tsv")):
        if path.stat().st_mtime >= started:
            with path.open() as stream:
                rows += csv.DictReader(stream, delimiter="\t")
    if not rows:
        raise RuntimeError(f"no job of {rule} ran")
    return sum(float(row["s"]) for row in rows)
