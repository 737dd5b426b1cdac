"""The record of one run of the workflow."""

from __future__ import annotations

from typing import ClassVar

from histomake.base.records.environment import GitState, Machine, without_empty_git
from histomake.base.records.record import Part, Record, Upgrade


class PreviousRun(Part, frozen=True, kw_only=True):
    """The run before, so that no record can be altered or removed unnoticed."""

    run: str
    """Name of its folder."""
    sha256: str
    """sha256 of its record."""


class RunRecord(Record, frozen=True, kw_only=True):
    """One run of the workflow. Next to it are the configuration, the slide sheet and Snakemake's logs."""

    NAME: ClassVar[str] = "run record"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (without_empty_git,)
    REMEDY: ClassVar[str] = "Restore it from a backup: a run record cannot be made again"

    finished: str
    """Time at which the run finished, UTC; also the name of the folder."""
    succeeded: bool
    """Whether all jobs of the run succeeded."""
    command: list[str]
    """Command line of the run."""
    git: GitState | None
    """The code's git checkout; null outside a checkout."""
    packages: dict[str, str]
    """Versions of Python, of histomake and of the packages that shape results."""
    machine: Machine
    """The computer that ran Snakemake."""
    files: dict[str, str]
    """sha256 of the files next to the record, by name."""
    previous: PreviousRun | None
    """The run before; null for the first."""
