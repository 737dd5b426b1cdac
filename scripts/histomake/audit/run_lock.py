"""The lock of a results folder: one run at a time, independent of the checkout and host it was started from.

Snakemake locks the folder it is started in, and two checkouts may share one results folder. A lock is a file that is
created with a hard link, which also works on NFS.
"""

from __future__ import annotations

import atexit
import errno
import getpass
import os
import socket
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote
from typing import ClassVar

from histomake.base.errors import HistomakeError
from histomake.base.records.record import Record, RecordError

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""Error numbers of file systems that do not support hard links."""
START_TIME = 19
"""Index of a process's start time in ``/proc/{pid}/stat``, counted after its name (field 22)."""


class LockRecord(Record, frozen=True, kw_only=True):
    """Who holds the lock."""

    NAME: ClassVar[str] = "run lock"
    REMEDY: ClassVar[str] = "If no run is writing into this folder, delete it"

    user: str
    """Name of the user."""
    host: str
    """Name of the host."""
    pid: int
    """Process id of Snakemake on that host."""
    process_start: str
    """Start of the process, in clock ticks since the host started, and the id of that start of the host."""
    started: str
    """Time at which the run started, UTC."""


def acquire(path: Path) -> None:
    """Acquire the lock until `release`, or until the process ends.

    The lock of a process of this host that has ended is replaced.

    Raises:
        HistomakeError: another run holds the lock. A run on another host is assumed to be alive.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    _own_record().write(aside)
    try:
        while not _link(aside, path):
            _remove_if_stale(path)
    finally:
        aside.unlink()
    atexit.register(release, path)


def release(path: Path) -> None:
    """Release the lock. Nothing happens if another process holds it, such as the parent of a forked one."""
    with suppress(FileNotFoundError, RecordError):
        if LockRecord.read(path).process_start == _process_start(os.getpid()):
            path.unlink()
    atexit.unregister(release)


def _own_record() -> LockRecord:
    pid = os.getpid()
    return LockRecord(
        user=getpass.getuser(),
        host=socket.gethostname(),
        pid=pid,
        process_start=_process_start(pid) or "",
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _process_start(pid: int) -> str | None:
    """Start time that distinguishes a process from a later one with the same id; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return f"{fields[START_TIME]} {BOOT_ID.read_text().strip()}"


def _link(source: Path, target: Path) -> bool:
    """Link ``target`` to the file ``source`` unless ``target`` exists; return whether that was done."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _create(target, source.read_bytes())
    return True


def _create(path: Path, content: bytes) -> bool:
    try:
        with open(path, "xb") as stream:
            stream.write(content)
    except FileExistsError:
        return False
    return True


def _remove_if_stale(path: Path) -> None:
    """Remove the lock of a process that has ended. Raises HistomakeError if it may be alive."""
    try:
        found = LockRecord.read(path)
    except FileNotFoundError:
        return
    alive = found.host != socket.gethostname() or _process_start(found.pid) == found.process_start
    if alive:
        raise HistomakeError(
            f"{path.parent.parent} is in use: {found.user} runs Snakemake on {found.host}, process {found.pid}, since "
            f"{found.started}. Wait for that run; if it is gone, delete its lock: rm {quote(str(path))}"
        )
    # Moved first: of two processes that find the same stale lock, only one can move it.
    stale = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with suppress(FileNotFoundError):
        path.rename(stale)
        if LockRecord.read(stale) != found:
            # Another process has replaced the stale lock in the meantime; this is its lock.
            _link(stale, path)
        stale.unlink()
