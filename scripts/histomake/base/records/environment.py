"""Where a job or a run was made: its code and its machine."""

from __future__ import annotations

from histomake.base.records.record import Json, Part


def without_empty_git(content: Json) -> Json:
    """``git`` is an empty object outside a git checkout."""
    return content | {"git": content.get("git") or None}


class GitState(Part, frozen=True, kw_only=True):
    """The git checkout that the code ran from."""

    commit: str
    """Commit of the checkout."""
    modified: bool
    """Whether tracked files differed from the commit."""


class Machine(Part, frozen=True, kw_only=True):
    """The computer that ran the code."""

    host: str
    """Name of the host."""
    cpus: int | None
    """Number of its CPU cores; null if unknown."""
    gpus: list[str]
    """Names of the GPUs that the job could use, if it used torch."""
    slurm_job: str | None
    """Slurm's id of the job; null outside Slurm."""
