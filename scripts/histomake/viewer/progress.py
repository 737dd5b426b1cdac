"""The page of a run: jobs by rule, those that run, those that failed with the ends of their logs, and the time left."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from histomake.base.layout import Layout
from histomake.base.run_progress import RunProgress

TAIL_LINES = 20
TAIL_BYTES = 20_000
MOST = 50
"""Jobs that run, and jobs that failed, that are shown: the last ones."""


class ShownJob(TypedDict):
    """A job with its wildcards as text, since when it runs or when it failed, and the end of its log if it failed."""

    rule: str
    wildcards: str
    time: float
    log: str


class ShownRule(TypedDict):
    """Jobs of a rule."""

    rule: str
    jobs: int
    done: int
    mean: float | None


class ShownRun(TypedDict):
    """A run. Times are in seconds since 1970; ``left``: seconds, null if unknown; ``unknown``: rules without a time."""

    state: str
    started: float
    news: float
    jobs: int
    done: int
    left: float | None
    unknown: list[str]
    rules: list[ShownRule]
    running: list[ShownJob]
    failed: list[ShownJob]
    failures: int


def describe(layout: Layout, now: float) -> ShownRun:
    """What the page shows. Raises KeyError if no run has left its progress."""
    if not layout.progress.is_file():
        raise KeyError("no run has been recorded in this results folder")
    run = RunProgress.read(layout.progress)
    left, unknown = run.seconds_left(now)
    running = sorted(run.running.values(), key=lambda job: job.started)
    return {
        "state": run.state,
        "started": run.started,
        "news": run.news,
        "jobs": run.jobs,
        "done": run.done,
        "left": left if run.state == "running" else None,
        "unknown": unknown,
        "rules": [
            {
                "rule": name,
                "jobs": rule.jobs,
                "done": rule.done,
                "mean": rule.seconds / rule.done if rule.done else None,
            }
            for name, rule in run.rules.items()
        ],
        "running": [_shown(job.rule, job.wildcards, job.started) for job in running[-MOST:]],
        "failed": [
            _shown(job.rule, job.wildcards, job.time, tail(layout, job.logs)) for job in reversed(run.failed[-MOST:])
        ],
        "failures": len(run.failed),
    }


def _shown(rule: str, wildcards: Mapping[str, str], at: float, log: str = "") -> ShownJob:
    named = ", ".join(f"{name} {value}" for name, value in wildcards.items())
    return {"rule": rule, "wildcards": named, "time": at, "log": log}


def tail(layout: Layout, logs: Sequence[str]) -> str:
    """The last lines of the first log that is there. Files that are not logs of these results are not read."""
    folder = layout.logs.resolve()
    for name in logs:
        # Snakemake names logs relative to the folder it was started in, which may be another one now.
        below = name.partition(f"{layout.logs.name}{os.sep}")[2]
        path = (folder / below).resolve()
        if below and path.is_relative_to(folder) and path.is_file():
            return _end_of(path)
    return ""


def _end_of(path: Path) -> str:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-TAIL_LINES:])
