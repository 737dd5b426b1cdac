"""Records of whole runs: the summary before a run, its records, and the messages at its end."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from histomake.audit import environment, register, run_chain, run_lock
from histomake.audit.fingerprints import MISSING, Fingerprints
from histomake.audit.register import Update
from histomake.audit.sidecar import SIDECAR
from histomake.base.file_cache import FileCache
from histomake.base.layout import Layout
from histomake.base.records.record import Quarantined
from histomake.base.records.run import PreviousRecord, RunRecord, SidecarCounts
from histomake.base.records.warning import SlideWarning
from histomake.cohort.sheet import Slide
from histomake.config import Config

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
        if fingerprint not in (MISSING, msgspec.json.decode(sidecar, type=Converted).params.slide):
            return "changed"  # a slide whose file is missing is used from its store
        return "unchanged" if msgspec.json.decode(manifest, type=Outcome).status == "ok" else "quarantined"
    except msgspec.MsgspecError:
        return "changed"


@dataclass(frozen=True)
class Jobs:
    """What Snakemake did in a run. Paths are relative to the working directory, as in the plan."""

    done: Collection[str]
    """First output of every job that ended well."""

    is_output: Callable[[str, str | None], bool]
    """Whether a file, given with its slide, is an output of the workflow."""


class Run:
    """A run that writes into a results folder: it acquires the lock, writes its records and releases the lock."""

    def __init__(self, layout: Layout, config: Config) -> None:
        self.layout, self.config = layout, config
        self.anchor = Path(config.audit.anchor) if config.audit.anchor else None
        self.name: str | None = None

    def start(self) -> None:
        """Lock the results folder and record the start, with the configuration and the sheet.

        Raises HistomakeError when another run holds the lock, or the anchor cannot be written to.
        """
        run_lock.acquire(self.layout.run_lock)
        self.name = run_chain.append(self.layout, self.anchor, self._write_settings, self._record("started"))
        # A job of this run would take them for those of another one, and no record would show whose they were.
        shutil.rmtree(self.layout.shared_features, ignore_errors=True)

    def finish(self, jobs: Jobs, *, snakemake_logs: Sequence[str], succeeded: bool) -> None:
        """Record the end, with Snakemake's logs and the register of sidecars; unlock; say what is missing."""
        links = run_chain.read_links(self.layout)
        update = self._compare(links, jobs)
        whole = sum(link.record.event == "finished" for link in links) % register.WHOLE_EVERY == 0

        def write_files(folder: Path) -> None:
            for number, path in enumerate(path for path in map(Path, snakemake_logs) if path.is_file()):
                shutil.copyfile(path, folder / f"snakemake-{number}.log")
            update.write(folder / register.REGISTER, whole=whole)

        build = self._record(
            "finished",
            succeeded=succeeded,
            register="whole" if whole else "changes",
            sidecars=update.count(),
            caches={**run_chain.recorded_caches(links), **update.caches},
        )
        run_chain.append(self.layout, self.anchor, write_files, build)
        run_lock.release(self.layout.run_lock)
        lines = _told_of_sidecars(update, self.layout) + _told_of_quarantine(self.layout, succeeded=succeeded)
        lines += _told_of_damage(self.layout, self.config.tasks, update.met)
        for line in lines + _told_of_warnings(self.layout):
            print(line, file=sys.stderr)

    def _compare(self, links: Sequence[run_chain.Link], jobs: Jobs) -> Update:
        results = self.layout.results
        own = next((i for i, link in enumerate(links) if link.name == self.name), 0)
        return register.compare(
            self.layout,
            links,
            made={f"{Path(path).relative_to(results)}{SIDECAR}" for path in jobs.done},
            is_output=lambda name, entry: jobs.is_output(str(results / name).removesuffix(SIDECAR), entry.slide_id),
            interrupted=own > 0 and links[own - 1].record.event == "started",
        )

    def _write_settings(self, folder: Path) -> None:
        (folder / run_chain.SETTINGS).write_text(json.dumps(self.config.dump(), indent=1, ensure_ascii=False))
        shutil.copyfile(self.config.sheet, folder / "slides.tsv")

    def _record(
        self,
        event: Literal["started", "finished"],
        *,
        succeeded: bool | None = None,
        register: Literal["whole", "changes"] | None = None,
        sidecars: SidecarCounts | None = None,
        caches: Mapping[str, str] | None = None,
    ) -> Callable[..., RunRecord]:
        def build(*, name: str, time: str, files: dict[str, str], previous: PreviousRecord | None) -> RunRecord:
            return RunRecord(
                event=event,
                time=time,
                run=self.name or name,
                command=sys.argv,
                git=environment.git_state(),
                packages=environment.package_versions(),
                machine=environment.machine(),
                files=files,
                previous=previous,
                succeeded=succeeded,
                register=register,
                sidecars=sidecars,
                caches=dict(caches or {}),
            )

        return build


def _told_of_sidecars(update: Update, layout: Layout) -> list[str]:
    """Lines on sidecars that were altered or removed, but not by a run."""
    found = sorted((change, name) for name, (_, change) in update.changes.items() if change in ("altered", "missing"))
    if not found:
        return []
    lines = [f"  {layout.results / name}: {change}" for change, name in found[:5]]
    more = [f"  and {len(found) - 5:,} more"] if len(found) > 5 else []
    head = f"{len(found):,} sidecar(s) were changed, but not by a run; `histomake verify` says more:"
    return ["", head, *lines, *more]


def _told_of_quarantine(layout: Layout, *, succeeded: bool) -> list[str]:
    """Lines on the slides in quarantine."""
    entries = Quarantined.read_list(layout.quarantine) if layout.quarantine.is_file() else []
    if not entries:
        return []
    rest = "all others are done" if succeeded else "other jobs failed, see above"
    lines = [f"  {e.slide_id} ({e.reason}): {e.detail}. {e.remedy}" for e in entries]
    return ["", f"{len(entries)} slide(s) in quarantine; {rest}:", *lines]


def _told_of_damage(layout: Layout, tasks: Iterable[str], met: Sequence[Quarantined]) -> list[str]:
    """Lines on slides whose damage was met after their conversion: by tasks, and in this run by any job (``met``)."""
    entries = [e for task in tasks if (path := layout.damage(task)).is_file() for e in Quarantined.read_list(path)]
    unique = {(e.slide_id, e.stage, e.detail): e for e in [*entries, *met]}
    if not unique:
        return []
    lines = [f"  {slide} ({e.reason}, in {stage}): {e.detail}. {e.remedy}" for (slide, stage, _), e in unique.items()]
    slides = len({slide for slide, *_ in unique})
    return ["", f"{slides} slide(s) were damaged, although they could be converted; other results are kept:", *lines]


def _told_of_warnings(layout: Layout) -> list[str]:
    """Lines on warnings about slides that are used."""
    warnings = SlideWarning.read_list(layout.warnings) if layout.warnings.is_file() else []
    if not warnings:
        return []
    lines = [f"  {warning.slide_id} ({warning.about}): {warning.text}" for warning in warnings[:WARNINGS_SHOWN]]
    more = len(warnings) - WARNINGS_SHOWN
    rest = [f"  and {more} more in {layout.warnings}"] if more > 0 else []
    return ["", f"{len(warnings)} warning(s) about slides that are used:", *lines, *rest]
