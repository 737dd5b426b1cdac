"""Records of whole runs: the summary before a run, the messages at its end, and a chain of records."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from histomake.audit import environment
from histomake.audit.fingerprints import Fingerprints
from histomake.audit.sidecar import SIDECAR
from histomake.base.file_cache import FileCache
from histomake.base.files import atomic_directory, sha256_file
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined, RecordError
from histomake.base.records.run import PreviousRun, RunRecord
from histomake.base.records.warning import SlideWarning
from histomake.cohort.sheet import Slide
from histomake.config import Config

RECORD = "run.json"
WARNINGS_SHOWN = 20
"""Warnings printed at the end of a run, so that they stay readable."""


class Converted(msgspec.Struct):
    """The part of convert's sidecar that identifies the bytes it read."""

    class Params(msgspec.Struct):
        """Its params."""

        slide: str | None = None

    params: Params


class Outcome(msgspec.Struct):
    """The part of a manifest that gives the outcome of the conversion."""

    status: str


def preflight(layout: Layout, slides: Mapping[str, Slide], fingerprints: Fingerprints) -> str:
    """One line on the cohort: how many slides are new, changed, in quarantine, unchanged."""
    cache = FileCache(layout.file_cache("preflight"))
    manifests = [layout.manifest(slide) for slide in slides]
    sidecars = cache.read_texts(f"{path}{SIDECAR}" for path in manifests)
    counts = Counter(
        _state(manifest, sidecar, fingerprints.of(slide.path))
        for slide, manifest, sidecar in zip(slides.values(), cache.read_texts(manifests), sidecars, strict=True)
    )
    cache.save()
    words = ", ".join(f"{counts[state]:,} {state}" for state in ("new", "changed", "quarantined", "unchanged"))
    return f"cohort: {len(slides):,} slides: {words}"


def _state(manifest: str | None, sidecar: str | None, fingerprint: str) -> str:
    if manifest is None or sidecar is None:
        return "new"
    try:
        if msgspec.json.decode(sidecar, type=Converted).params.slide != fingerprint:
            return "changed"
        return "unchanged" if msgspec.json.decode(manifest, type=Outcome).status == "ok" else "quarantined"
    except msgspec.MsgspecError:
        return "changed"


def finish(layout: Layout, config: Config, *, snakemake_logs: Sequence[str], succeeded: bool) -> None:
    """Keep the run's record and say, as the last lines, what is missing and why."""
    keep_record(layout, config, snakemake_logs=snakemake_logs, succeeded=succeeded)
    entries = Quarantined.read_list(layout.quarantine) if layout.quarantine.is_file() else []
    if entries:
        print(f"\n{len(entries)} slide(s) in quarantine; all others are done:", file=sys.stderr)
    for entry in entries:
        print(f"  {entry.slide_id} ({entry.reason}): {entry.detail}. {entry.remedy}", file=sys.stderr)
    warnings = SlideWarning.read_list(layout.warnings) if layout.warnings.is_file() else []
    if warnings:
        print(f"\n{len(warnings)} warning(s) about slides that are used:", file=sys.stderr)
    for warning in warnings[:WARNINGS_SHOWN]:
        print(f"  {warning.slide_id} ({warning.about}): {warning.text}", file=sys.stderr)
    if len(warnings) > WARNINGS_SHOWN:
        print(f"  and {len(warnings) - WARNINGS_SHOWN} more in {layout.warnings}", file=sys.stderr)


def keep_record(layout: Layout, config: Config, *, snakemake_logs: Sequence[str], succeeded: bool) -> Path:
    """Write ``audit/runs/<time>/``: configuration, sheet, code state, Snakemake's log.

    Each record carries the sha256 of the one before, so that none can be altered or removed unnoticed.
    """
    folder = layout.runs
    previous = max(folder.glob(f"*/{RECORD}"), default=None)
    started = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%fZ")
    with atomic_directory(folder / started) as aside:
        (aside / "config.json").write_text(json.dumps(config.dump(), indent=1, ensure_ascii=False))
        shutil.copyfile(config.sheet, aside / "slides.tsv")
        for number, path in enumerate(map(Path, snakemake_logs)):
            if path.is_file():
                shutil.copyfile(path, aside / f"snakemake-{number}.log")
        files = {file.name: sha256_file(file) for file in sorted(aside.iterdir())}
        record = RunRecord(
            finished=started,
            succeeded=succeeded,
            command=sys.argv,
            git=environment.git_state(),
            packages=environment.package_versions(),
            machine=environment.machine(),
            files=files,
            previous=PreviousRun(run=previous.parent.name, sha256=sha256_file(previous)) if previous else None,
        )
        record.write(aside / RECORD)
    return folder / started


def broken_links(layout: Layout) -> list[str]:
    """Every run record that was altered or lost, judged by the chain of digests."""
    problems: list[str] = []
    previous: PreviousRun | None = None
    for path in sorted(layout.runs.glob(f"*/{RECORD}")):
        content = path.read_bytes()
        try:
            problems += _broken(path, RunRecord.decode(content, path), previous)
        except RecordError as error:
            problems.append(str(error))
        previous = PreviousRun(run=path.parent.name, sha256=hashlib.sha256(content).hexdigest())
    return problems


def _broken(path: Path, record: RunRecord, previous: PreviousRun | None) -> list[str]:
    problems = [] if record.previous == previous else [f"{path}: the record before it was altered or removed"]
    for name, digest in record.files.items():
        file = path.with_name(name)
        if not file.is_file() or sha256_file(file) != digest:
            problems.append(f"{file}: altered or removed since the run")
    return problems
