"""Keeps how far a run has come in a file, from the events that Snakemake logs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from histomake.base.run_progress import FailedJob, RuleProgress, RunningJob, RunProgress

EVERY = 2.0
"""Seconds between two versions of the file, at least."""


class ProgressLog(logging.Handler):
    """Handler of Snakemake's log. It writes nothing before `start`, so that a dry run leaves no file."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.path, self.clock = path, clock
        now = clock()
        self.progress = RunProgress(now, now)
        self._known: dict[int, RunningJob] = {}
        self._written = float("-inf")
        self._timer: threading.Timer | None = None
        self._writes = False
        self._events: dict[str, Callable[[Any], None]] = {
            "run_info": self._planned,
            "job_info": self._described,
            "job_started": self._started,
            "job_finished": self._finished,
            "job_error": self._failed,
        }

    def start(self) -> None:
        """Write the file from now on."""
        self._writes = True
        self.progress.started = self.clock()
        self._write(at_once=True)

    def end(self, *, succeeded: bool) -> None:
        """Note how the run ended."""
        self.progress.state = "finished" if succeeded else "failed"
        self.progress.running = {}
        if self._timer is not None:
            self._timer.cancel()
        self._write(at_once=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Follow an event; other messages are ignored."""
        follow = self._events.get(str(getattr(record, "event", "")))
        if follow is None:
            return
        follow(record)
        self._write(at_once=False)

    def _planned(self, record: Any) -> None:
        for rule, jobs in record.stats.items():
            if rule != "total":
                self.progress.rules.setdefault(rule, RuleProgress()).jobs = int(jobs)

    def _described(self, record: Any) -> None:
        job = RunningJob(record.rule_name, _texts(record.wildcards), _names(record.log), self.clock())
        self._known[record.jobid] = job
        if record.jobid in self.progress.running:
            self.progress.running[record.jobid] = job

    def _started(self, record: Any) -> None:
        now = self.clock()
        for number in record.jobs:
            known = self._known.get(number)
            job = RunningJob("", {}, [], now) if known is None else known
            job.started = now
            self.progress.running[number] = job

    def _finished(self, record: Any) -> None:
        self._known.pop(record.job_id, None)
        job = self.progress.running.pop(record.job_id, None)
        if job is not None:
            rule = self.progress.rules.setdefault(job.rule, RuleProgress())
            rule.done += 1
            rule.seconds += self.clock() - job.started

    def _failed(self, record: Any) -> None:
        job = self.progress.running.pop(record.jobid, None)
        wildcards = {} if job is None else job.wildcards
        self.progress.failed.append(FailedJob(record.rule_name, wildcards, _names(record.log), self.clock()))

    def _write(self, *, at_once: bool) -> None:
        now = self.clock()
        self.progress.news = now
        if not self._writes:
            return
        if at_once or now - self._written >= EVERY:
            self._write_now()
        elif self._timer is None:
            # Otherwise the file would lack the last jobs that started until the next event, hours later.
            self._timer = threading.Timer(EVERY, self._write_late)
            self._timer.daemon = True
            self._timer.start()

    def _write_late(self) -> None:
        with self.lock or nullcontext():
            self._timer = None
            self._write_now()

    def _write_now(self) -> None:
        self._written = self.clock()
        self.progress.write(self.path)


def _texts(wildcards: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in dict(wildcards or {}).items()}


def _names(files: Iterable[object] | None) -> list[str]:
    """Paths of files; Snakemake may add remarks in brackets."""
    return [str(file).partition(" (")[0] for file in files or ()]
