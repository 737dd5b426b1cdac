"""The chain of run records: each holds the digest of the previous one, so that changes and removals are detected.

The order of the records is that of their links, not of their names, because clocks can be set back. Whoever can write
into the results folder could replace the whole chain. An anchor prevents that: a folder elsewhere, named in the
configuration, that receives the digest of every record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_directory, locked, sha256_file, sync_directory
from histomake.base.layout import Layout
from histomake.base.records.record import RecordError
from histomake.base.records.run import PreviousRecord, RunRecord

RECORD = "run.json"
SETTINGS = "config.json"
"""Configuration of a run, beside the record of its start."""
LOCK = ".lock"


@dataclass(frozen=True)
class Link:
    """A record, the name of its folder and the sha256 of its file."""

    name: str
    sha256: str
    record: RunRecord


@dataclass(frozen=True)
class Chain:
    """The readable records in the order of their links, and everything that is wrong with them."""

    links: Sequence[Link]
    problems: Sequence[str]
    anchor: Path | None
    """The anchor they were compared with."""

    @property
    def unfinished(self) -> Link | None:
        """The start of the last run, if no end of it is recorded: it is running, or was killed."""
        last = self.links[-1] if self.links else None
        return last if last is not None and last.record.event == "started" else None


class _Settings(msgspec.Struct):
    """The part of a configuration that names the anchor."""

    class AuditSection(msgspec.Struct):
        """``audit``."""

        anchor: str | None = None

    audit: AuditSection = msgspec.field(default_factory=AuditSection)


class Anchored(msgspec.Struct):
    """An entry of an anchor, named like the folder of its run record."""

    sha256: str


def append(
    layout: Layout, anchor: Path | None, write_files: Callable[[Path], None], build: Callable[..., RunRecord]
) -> str:
    """Append a record; returns the name of its folder.

    Args:
        layout: The results folder.
        anchor: Folder outside of it that receives the digest of the record, or None.
        write_files: Writes the files that lie beside the record into the folder it is given.
        build: Makes the record from ``name``, ``time``, ``files`` and ``previous``.

    Raises HistomakeError when the anchor cannot be written to.
    """
    now = datetime.now(UTC)
    with locked(layout.runs / LOCK):
        links = read_links(layout)
        name = _free_name(layout.runs, now.strftime("%Y-%m-%dT%H-%M-%S.%fZ"))
        with atomic_directory(layout.runs / name) as aside:
            write_files(aside)
            files = {file.name: sha256_file(file) for file in sorted(aside.iterdir())}
            previous = PreviousRecord(run=links[-1].name, sha256=links[-1].sha256) if links else None
            record = build(name=name, time=now.isoformat(timespec="microseconds"), files=files, previous=previous)
            record.write(aside / RECORD)
        if anchor is not None:
            _write_anchor(anchor, name, sha256_file(layout.runs / name / RECORD))
    return name


def _free_name(folder: Path, name: str) -> str:
    while (folder / name).exists():
        name += "+"
    return name


def _write_anchor(anchor: Path, name: str, sha256: str) -> None:
    """Write the digest of a record; an entry is never replaced."""
    try:
        with open(anchor / f"{name}.json", "x") as stream:
            stream.write(msgspec.json.encode(Anchored(sha256)).decode())
        sync_directory(anchor)
    except OSError as error:
        raise HistomakeError(
            f"audit.anchor: the digest of the run record {name} cannot be written to {anchor} ({error.strerror}). "
            "Create the folder, or correct the key"
        ) from error


def read(layout: Layout, anchor: Path | None = None) -> Chain:
    """Read all records, hash the files beside them, and compare with the digests in the anchor.

    ``anchor``: the folder with these digests; by default the one that the records name, if they name one.
    """
    links, problems = _read_records(layout)
    anchor = anchor or named_anchor(layout, links)
    digests = {link.name: link.sha256 for link in links}
    problems += [problem for link in links for problem in _broken_links(layout, link, digests)]
    problems += _forks(layout, links)
    if anchor is not None:
        problems += _against_anchor(anchor, links)
    return Chain(links, problems, anchor)


def named_anchor(layout: Layout, links: Sequence[Link]) -> Path | None:
    """The anchor of the last run that had one, or None."""
    for link in reversed(links):
        if link.record.event == "started":
            try:
                settings = msgspec.json.decode((layout.runs / link.name / SETTINGS).read_bytes(), type=_Settings)
            except (OSError, msgspec.MsgspecError):
                continue  # `read` compares the file with its digest
            if settings.audit.anchor:
                return Path(settings.audit.anchor)
    return None


def read_links(layout: Layout) -> list[Link]:
    """Read all readable records in the order of their links. Nothing is checked, so that a run starts quickly."""
    return _read_records(layout)[0]


def recorded_caches(links: Iterable[Link]) -> Mapping[str, str]:
    """Digests of the caches that jobs may use, by name: those in the record of the last run that ended."""
    ended = [link.record for link in links if link.record.event == "finished"]
    return ended[-1].caches if ended else {}


def _read_records(layout: Layout) -> tuple[list[Link], list[str]]:
    """The readable records in the order of their links, and what is wrong with the others."""
    found: list[Link] = []
    problems: list[str] = []
    for folder in sorted(path for path in layout.runs.glob("*") if path.is_dir() and not path.name.startswith(".")):
        try:
            content = (folder / RECORD).read_bytes()
            record = RunRecord.decode(content, folder / RECORD)
            found.append(Link(folder.name, hashlib.sha256(content).hexdigest(), record))
        except FileNotFoundError:
            problems.append(f"{folder / RECORD}: missing")
        except RecordError as error:
            problems.append(str(error))
    return _in_order(found), problems


def _in_order(found: Iterable[Link]) -> list[Link]:
    """Each record after the one it names; records whose predecessor is lost begin a part of their own."""
    rest = {link.name: link for link in found}
    followers: dict[str | None, list[Link]] = {}
    for link in rest.values():
        before = link.record.previous.run if link.record.previous else None
        followers.setdefault(before if before in rest else None, []).append(link)
    ordered: list[Link] = []
    waiting = followers.get(None, [])[::-1]
    while waiting:
        link = waiting.pop()
        ordered.append(link)
        waiting += followers.get(link.name, [])[::-1]
    return ordered


def _broken_links(layout: Layout, link: Link, digests: Mapping[str, str]) -> list[str]:
    problems = []
    previous = link.record.previous
    if previous is not None and digests.get(previous.run) != previous.sha256:
        problems.append(f"{layout.runs / link.name}: the record before it, {previous.run}, was altered or removed")
    for name, digest in link.record.files.items():
        file = layout.runs / link.name / name
        if not file.is_file() or sha256_file(file) != digest:
            problems.append(f"{file}: altered or removed since the run")
    return problems


def _forks(layout: Layout, links: Sequence[Link]) -> list[str]:
    """A record that is not the first of the chain but names none before it, or names the same as another."""
    seen: set[str | None] = set()
    problems = []
    for link in links:
        before = link.record.previous.run if link.record.previous else None
        if before in seen:
            told = f"the same record before it as another: {before}" if before else "no record before it"
            problems.append(f"{layout.runs / link.name}: names {told}; records were removed or added")
        seen.add(before)
    return problems


def _against_anchor(anchor: Path, links: Iterable[Link]) -> list[str]:
    """Anchored digests without their record, and records without an anchored digest after the first that has one."""
    if not anchor.is_dir():
        return [f"{anchor}: missing; it holds the digests that the run records are compared with"]
    try:
        entries = {path.stem: path.read_bytes() for path in anchor.glob("*.json")}
        anchored = {name: msgspec.json.decode(entry, type=Anchored).sha256 for name, entry in entries.items()}
    except (OSError, msgspec.MsgspecError) as error:
        return [f"{anchor}: an entry cannot be read: {error}"]
    have = {link.name: link.sha256 for link in links}
    problems = [
        f"{anchor / name}.json: the run record with this digest was altered or removed"
        for name, digest in sorted(anchored.items())
        if have.get(name) != digest
    ]
    began = False
    for link in links:
        began = began or link.name in anchored
        if began and link.name not in anchored:
            problems.append(f"{anchor}: has no digest of the run record {link.name}")
    return problems
