"""How far a run of the workflow has come: its jobs by rule, those that run, and those that failed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from histomake.base.files import atomic_file


class RunningJob(msgspec.Struct):
    """A job that was started: its rule, wildcards, log files, and the time of its start in seconds since 1970."""

    rule: str
    wildcards: dict[str, str]
    logs: list[str]
    started: float


class FailedJob(msgspec.Struct):
    """A job that failed, and when; a job that Snakemake starts again can be listed several times."""

    rule: str
    wildcards: dict[str, str]
    logs: list[str]
    time: float


class RuleProgress(msgspec.Struct):
    """Jobs of a rule: how many there are and have ended, and the seconds that these took together."""

    jobs: int = 0
    done: int = 0
    seconds: float = 0.0

    @property
    def mean(self) -> float | None:
        """Seconds of a job; None before the first one has ended."""
        return self.seconds / self.done if self.done else None


class RunProgress(msgspec.Struct):
    """A run. Times are in seconds since 1970; ``news``: when a job last started, ended or failed."""

    started: float
    news: float
    state: Literal["running", "finished", "failed"] = "running"
    rules: dict[str, RuleProgress] = {}
    running: dict[int, RunningJob] = {}
    failed: list[FailedJob] = []

    @classmethod
    def read(cls, path: Path) -> RunProgress:
        """Read a file. Raises OSError and msgspec.MsgspecError."""
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def write(self, path: Path) -> None:
        """Write a file in one step."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as aside:
            aside.write_bytes(msgspec.json.encode(self))

    @property
    def jobs(self) -> int:
        """Number of jobs of the run."""
        return sum(rule.jobs for rule in self.rules.values())

    @property
    def done(self) -> int:
        """Number of jobs that have ended well."""
        return sum(rule.done for rule in self.rules.values())

    def seconds_left(self, now: float) -> tuple[float | None, list[str]]:
        """Seconds until the end, and the rules whose jobs are left out, since none of them has ended yet.

        Each job that is left is assumed to take as long as the average one of its rule, and as many jobs to run at once
        as so far on average. None before the first job has ended.
        """
        unknown = [name for name, rule in self.rules.items() if rule.jobs > rule.done and not rule.done]
        worked = sum(rule.seconds for rule in self.rules.values())
        if not worked or now <= self.started:
            return None, unknown
        elapsed = {job.rule: 0.0 for job in self.running.values()}
        for job in self.running.values():
            elapsed[job.rule] += now - job.started
        left = 0.0
        for name, rule in self.rules.items():
            if rule.mean is not None:
                left += max(0.0, (rule.jobs - rule.done) * rule.mean - elapsed.get(name, 0.0))
        at_once = (worked + sum(elapsed.values())) / (now - self.started)
        return left / max(at_once, 1e-9), unknown
