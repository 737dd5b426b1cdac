"""What the checks of ``histomake doctor`` report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """The result of one check; the remedy is empty where nothing has to be done."""

    state: State
    subject: str
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.state:<8} {self.subject}: {self.detail}"
        return f"{line}\n{'':<8}   {self.remedy}" if self.remedy else line


def ok(subject: str, detail: str) -> Finding:
    """Nothing to do."""
    return Finding(State.OK, subject, detail)


def warning(subject: str, detail: str, remedy: str) -> Finding:
    """A run works, but may be slow or fail later."""
    return Finding(State.WARNING, subject, detail, remedy)


def problem(subject: str, detail: str, remedy: str) -> Finding:
    """A run fails."""
    return Finding(State.PROBLEM, subject, detail, remedy)
