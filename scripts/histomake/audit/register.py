"""The register of sidecars: the sidecars that must exist and their digests, as stated in the run records.

A sidecar has the digests of a job's outputs, but nothing in it shows that it was altered or that another was removed.
Each run therefore registers the sidecars of its jobs in its record. A sidecar that changes in any other way is never
registered, so it stays a problem until a run makes the outputs again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from histomake.audit.run_chain import Link
from histomake.audit.sidecar import SIDECAR
from histomake.base.errors import HistomakeError
from histomake.base.file_cache import FileCache
from histomake.base.files import sha256_file
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined, RecordError
from histomake.base.records.run import SidecarCounts
from histomake.base.records.sidecar import Sidecar
from histomake.base.tables import write_table

REGISTER = "sidecars.parquet"
WHOLE_EVERY = 50
"""Number of runs after which the whole register is written again, so that it can be read without all earlier runs."""

CHANGE = pa.dictionary(pa.int8(), pa.string())
SCHEMA = pa.schema([("path", pa.string()), ("slide_id", pa.string()), ("sha256", pa.string()), ("change", CHANGE)])

Change = Literal["made", "adopted", "altered", "missing", "retired"]
"""See `histomake.base.records.run.SidecarCounts`."""

REGISTERED = ("made", "adopted")


@dataclass(frozen=True)
class Entry:
    """A registered sidecar."""

    slide_id: str | None
    sha256: str


def is_note(path: Path, layout: Layout) -> bool:
    """Whether a path in the results folder is not a result: logs, benchmarks, caches, checkpoints, records of runs.

    They are not inputs of any result, and they may be deleted.
    """
    places = (layout.logs, layout.benchmarks, layout.caches, layout.checkpoints, layout.runs)
    single = (layout.fingerprints, layout.report, layout.run_lock, layout.pseudonym_key, layout.pseudonyms)
    return not {*places, *single}.isdisjoint((path, *path.parents))


def files(layout: Layout) -> Iterator[Path]:
    """All files of the results folder that are results or sidecars; stores are given as a whole.

    Links to folders are followed, since a folder may lie on another disk, but not those to a folder they lie in.
    """
    for folder, subfolders, names in os.walk(layout.results, followlinks=True):
        place = Path(folder)
        subfolders[:] = [name for name in subfolders if not _leads_up(place / name)]
        folders, plain = (
            sorted(n for n in each if not _is_left_out(place / n, layout)) for each in (subfolders, names)
        )
        subfolders[:] = [name for name in folders if not name.endswith(".zarr")]
        yield from (place / name for name in folders if name.endswith(".zarr"))
        yield from (place / name for name in plain)


def _leads_up(path: Path) -> bool:
    """Whether a path is a link to a folder that it lies in."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _is_left_out(path: Path, layout: Layout) -> bool:
    """Whether a path is a note, or a file that a job is writing or was writing when it was killed."""
    return path.name.startswith(".") or is_note(path, layout)


def sidecar_paths(layout: Layout) -> list[str]:
    """All sidecars in the results folder, relative to it."""
    return [str(path.relative_to(layout.results)) for path in files(layout) if path.name.endswith(SIDECAR)]


def registered(layout: Layout, links: Sequence[Link], *, only: str | None = None) -> dict[str, Entry]:
    """The sidecars that must exist, by path relative to the results folder, as the records in ``links`` state.

    ``only``: path of the one that is asked for; the others are then not read. Raises HistomakeError when a list of a
    record cannot be read.
    """
    wanted = None if only is None else [("path", "=", only)]
    from_whole = max((i for i, link in enumerate(links) if link.record.register == "whole"), default=0)
    found: dict[str, Entry] = {}
    for link in links[from_whole:]:
        if link.record.register is None:
            continue
        path = layout.runs / link.name / REGISTER
        try:
            table = pq.read_table(path, filters=wanted)
        except (OSError, pa.ArrowException) as error:
            raise HistomakeError(f"{path} cannot be read: {error}. Restore it from a backup") from error
        for row in table.to_pylist():
            if row["change"] in REGISTERED:
                found[row["path"]] = Entry(row["slide_id"], row["sha256"])
            elif row["change"] == "retired":
                found.pop(row["path"], None)
    return found


@dataclass(frozen=True)
class Update:
    """What a run registers: changes by path, with the entry as found, or as registered where the file is missing."""

    changes: Mapping[str, tuple[Entry, Change]]
    state: Mapping[str, Entry]
    """The register after the changes."""
    met: Sequence[Quarantined]
    """Slides whose damage was met by jobs whose sidecars are new."""
    caches: Mapping[str, str]
    """Digests of the caches that jobs of this run left, by name; none if a sidecar was altered, because caches could \
hold what was made of altered files."""

    def count(self) -> SidecarCounts:
        """The number of changes of each kind."""
        counts = Counter(change for _, change in self.changes.values())
        return SidecarCounts(**{name: counts[name] for name in get_args(Change)})

    def write(self, path: Path, *, whole: bool) -> None:
        """Write the changes, with ``whole`` followed by the register as it is after them."""
        rows = [(name, entry, change) for name, (entry, change) in self.changes.items()]
        if whole:
            rows += [(name, entry, "adopted") for name, entry in self.state.items()]
        columns = [
            pa.array([name for name, _, _ in rows], pa.string()),
            pa.array([entry.slide_id for _, entry, _ in rows], pa.string()),
            pa.array([entry.sha256 for _, entry, _ in rows], pa.string()),
            pa.array([change for _, _, change in rows], pa.string()).dictionary_encode().cast(CHANGE),
        ]
        write_table(pa.table(columns, schema=SCHEMA), path)


def compare(
    layout: Layout,
    links: Sequence[Link],
    *,
    made: Collection[str],
    is_output: Callable[[str, Entry], bool],
    interrupted: bool,
) -> Update:
    """Compare the sidecars in the results folder with the register.

    Args:
        layout: The results folder.
        links: Its run records, in order.
        made: Sidecars that jobs of this run have written, relative to the results folder.
        is_output: Whether a registered sidecar that is missing is still an output of the workflow.
        interrupted: Whether an earlier run ended without a record, so that new sidecars may come from its jobs.
    """
    before = registered(layout, links)
    cache = FileCache(layout.file_cache("register"))
    names = sidecar_paths(layout)
    digests = cache.read_texts((layout.results / name for name in names), read=sha256_file)
    cache.save()
    now = {name: digest for name, digest in zip(names, digests, strict=True) if digest is not None}
    changes: dict[str, tuple[Entry, Change]] = {}
    met: list[Quarantined] = []
    caches: dict[str, str] = {}
    for name, digest in now.items():
        if name in before and before[name].sha256 == digest:
            continue
        change: Change = "made" if name in made else "adopted" if interrupted or not before else "altered"
        sidecar = _read(layout.results / name)
        changes[name] = Entry(sidecar.wildcards.get("slide") if sidecar else None, digest), change
        met += sidecar.quarantined if sidecar else []
        caches |= sidecar.caches if sidecar and change == "made" else {}
    for name in before.keys() - now.keys():
        changes[name] = before[name], "missing" if is_output(name, before[name]) else "retired"
    state = before | {name: entry for name, (entry, change) in changes.items() if change in REGISTERED}
    kept = {name: entry for name, entry in state.items() if changes.get(name, (entry, None))[1] != "retired"}
    altered = any(change == "altered" for _, change in changes.values())
    return Update(changes, kept, met, {} if altered else caches)


def _read(sidecar: Path) -> Sidecar | None:
    try:
        return Sidecar.read(sidecar)
    except RecordError:
        return None
