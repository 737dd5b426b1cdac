"""The records of a run of the workflow: one when it starts, one when it ends."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from histomake.base.records.environment import GitState, Machine, without_empty_git
from histomake.base.records.record import Count, Json, Part, Record, Upgrade


class PreviousRecord(Part, frozen=True, kw_only=True):
    """The record before, so that no record can be altered or removed unnoticed."""

    run: str
    """Name of its folder."""
    sha256: str
    """sha256 of its record."""


class SidecarCounts(Part, frozen=True, kw_only=True):
    """How many sidecars differ from those that earlier runs registered; ``sidecars.parquet`` lists them."""

    made: Count
    """Written by jobs of this run."""
    adopted: Count
    """Written before any run was registered, or by a run that was killed."""
    altered: Count
    """Altered, or added, but not by a run. They are not registered: `histomake verify` names them."""
    missing: Count
    """Registered, but missing. They stay registered: `histomake verify` names them."""
    retired: Count
    """Registered, missing, and no longer an output of the workflow. They are removed from the register."""


def in_two_events(content: Json) -> Json:
    """Format 1 had one record per run, written at its end, and no register of sidecars."""
    return {"event": "finished", "time": content.get("finished"), "run": content.get("finished")} | content


class RunRecord(Record, frozen=True, kw_only=True):
    """One event of a run of the workflow: its start or its end.

    The configuration and the slide sheet are next to the record of the start, Snakemake's logs and the register of
    sidecars beside that of the end. A start without an end is a run that was killed.
    """

    NAME: ClassVar[str] = "run record"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (without_empty_git, in_two_events)
    REMEDY: ClassVar[str] = "Restore it from a backup: a run record cannot be written again"

    event: Literal["started", "finished"]
    """The event: the start or the end of the run."""
    time: str
    """Time of the event, UTC."""
    run: str
    """Name of the folder with the first record of the run."""
    succeeded: bool | None = None
    """Whether all jobs of the run succeeded; null at its start."""
    command: list[str]
    """Command line of the run."""
    git: GitState | None
    """The code's git checkout; null outside a checkout."""
    packages: dict[str, str]
    """Versions of Python, of histomake and of the packages that shape results."""
    machine: Machine
    """The computer that ran Snakemake."""
    files: dict[str, str]
    """sha256 of the files beside the record, by name."""
    previous: PreviousRecord | None
    """The record before; null for the first."""
    register: Literal["whole", "changes"] | None = None
    """What ``sidecars.parquet`` lists: changes, or changes and then every registered sidecar; null without one."""
    sidecars: SidecarCounts | None = None
    """Changes of sidecars; null at the start of a run."""
    caches: dict[str, str] = msgspec.field(default_factory=dict)
    """sha256 of the caches in ``memory/`` that later jobs may use, by name: those that jobs of this or an earlier run \
left. Empty at the start of a run."""
