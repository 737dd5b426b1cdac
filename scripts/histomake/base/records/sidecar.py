"""The sidecar of a job: what its outputs were made from, by which code and where."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from histomake.base.records.environment import GitState, Machine, without_empty_git
from histomake.base.records.record import Quarantined, Record, Upgrade


class Sidecar(Record, frozen=True, kw_only=True):
    """How one job made its outputs. It is next to the first of them; paths are relative to the working directory.

    The digest of a folder, such as a Zarr store, is that of the sorted list of its files and their digests.
    """

    NAME: ClassVar[str] = "sidecar"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (without_empty_git,)
    REMEDY: ClassVar[str] = "Delete the output next to it and run the workflow again, which makes both again"

    rule: str
    """Rule of the workflow."""
    wildcards: dict[str, str]
    """Wildcards of the job, such as ``slide`` and ``fold``."""
    params: dict[str, Any]
    """Parameters of the job: settings, the digest of its code (``code``), fingerprints of what it depends on."""
    inputs: dict[str, str | None]
    """sha256 of every input, by path; null for large files that no job wrote."""
    outputs: dict[str, str]
    """sha256 of every output, by path."""
    sizes: dict[str, int] = msgspec.field(default_factory=dict)
    """Bytes of every output, by path; empty in sidecars of histomake 0.1."""
    quarantined: list[Quarantined] = msgspec.field(default_factory=list)
    """Slides whose damage the job met, later than their conversion: its outputs lack them."""
    caches: dict[str, str] = msgspec.field(default_factory=dict)
    """sha256 of the caches that the job left for the next one of its rule, by name in ``memory/``."""
    continued: list[str] = msgspec.field(default_factory=list)
    """Folders with checkpoints of an earlier attempt, from which the job continued. No record covers them."""
    log: list[str]
    """Log files of the job."""
    started: str
    """Time at which the job started, UTC, ISO 8601."""
    seconds: float
    """Duration of the job, in seconds."""
    threads: int
    """Number of threads of the job."""
    packages: dict[str, str]
    """Versions of Python, of histomake and of the packages that shape results."""
    git: GitState | None
    """The code's git checkout; null outside a checkout."""
    machine: Machine
    """The computer that ran the job."""
