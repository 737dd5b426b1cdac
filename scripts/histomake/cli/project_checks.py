"""Checks of a project: configuration, sheet and slides, the disk of the results, runs that hold the folder."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from histomake.base.addresses import in_object_store
from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_directory, atomic_file
from histomake.base.layout import Layout
from histomake.cli.findings import Finding, ok, problem, warning
from histomake.cli.slide_checks import readable
from histomake.cohort.sheet import Slide, read_sheet
from histomake.config import Config, load_config
from histomake.planning.notes import missing_weights, notes
from histomake.planning.plan import make_plan
from histomake.slide.companions import slide_files

GIB = 1 << 30
STORE_SHARE = 1.1
"""Free space required, per byte of slides not yet converted, for their stores and the outputs made from them."""


def project(configfile: Path) -> Iterator[Finding]:
    """Every check of the project of a configuration. If the configuration is invalid, the other checks are skipped."""
    try:
        config = load_config(configfile)
    except FileNotFoundError:
        yield problem(
            "configuration", f"{configfile} does not exist", "name it with --configfile, or run histomake init"
        )
        return
    except HistomakeError as error:
        yield problem("configuration", str(error), f"correct {configfile}; config/README.md explains every key")
        return
    yield ok("configuration", f"{configfile}: {len(config.tasks)} tasks, {len(config.grids)} grids")
    layout = Layout(Path(config.results))
    slides: Collection[Slide] = ()
    try:
        rows = read_sheet(config.sheet, config, check_files=True)
        slides = rows.values()
        yield ok("sheet", f"{config.sheet}: {len(slides)} slides")
        yield from plan(config, rows)
    except HistomakeError as error:
        yield problem("sheet", str(error), f"correct {config.sheet}")
    here = [slide for slide in slides if not in_object_store(slide.path)]
    if stored := len(slides) - len(here):
        yield warning(
            "object store", f"{stored} slides in one are neither opened nor counted", "snakemake -n finds them"
        )
    yield from readable(here, config.convert, max_share=config.max_lost) if here else ()
    yield room(layout, here)
    yield file_system(layout)
    yield file_locks(layout)
    yield working_folder()


def plan(config: Config, slides: Mapping[str, Slide]) -> Iterator[Finding]:
    """Whether every slide can be assigned a role, and likely mistakes in the sheet."""
    try:
        made = make_plan(config, slides)
        found = notes(made)
    except HistomakeError as error:
        yield problem("plan", str(error), f"correct {config.sheet} or the split of the task")
        return
    absent = list(missing_weights(made))
    for note in absent:
        yield problem("weights", note, "write the folder, or correct the path in the configuration")
    for note in (note for note in found if note not in absent):
        yield warning("plan", note, f"compare with {config.sheet}; a run does not stop for it")


def room(layout: Layout, slides: Iterable[Slide]) -> Finding:
    """Free space under the results folder against the size of the slides that are not converted yet."""
    pending = [slide for slide in slides if not layout.manifest(slide.slide_id).is_file()]
    needed = STORE_SHARE * sum(file.stat().st_size for slide in pending for file in slide_files(slide.path))
    free = shutil.disk_usage(_existing(layout.results)).free
    detail = f"{layout.results}: {free / GIB:.0f} GiB free, {needed / GIB:.1f} GiB for {len(pending)} slides to convert"
    if free < needed:
        return problem("disk", detail, "set `results` to a folder on a larger disk")
    return ok("disk", detail)


def file_system(layout: Layout) -> Finding:
    """Whether files and folders in the results folder can be written aside, flushed, and renamed over old ones."""
    folder = _existing(layout.results)
    remedy = "set `results` to a folder you may write to, on a file system with fsync and rename"
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor.", ignore_cleanup_errors=True) as scratch:
            file, tree = Path(scratch) / "file", Path(scratch) / "tree"
            for content in ("old", "new"):
                with atomic_file(file) as aside:
                    aside.write_text(content)
                with atomic_directory(tree) as aside:
                    (aside / "file").write_text(content)
            found = {file.read_text(), (tree / "file").read_text()}
    except OSError as error:
        return problem("file system", f"{folder}: {error}", remedy)
    if found != {"new"}:
        return problem("file system", f"{folder}: a renamed file still has its old content", remedy)
    return ok("file system", f"flushes and renames files in {folder}")


def file_locks(layout: Layout) -> Finding:
    """Whether files under the results folder can be locked, which DuckDB and the writers of stores rely on."""
    folder = _existing(layout.results)
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        remedy = "set `results` to a folder you may write to, on a file system mounted with locks"
        return problem("file locks", f"{folder}: {error}", remedy)
    return ok("file locks", f"work in {folder}")


def working_folder(folder: Path = Path(".snakemake/locks")) -> Finding:
    """Whether the working folder is locked by a run, or by one that was killed."""
    if any(folder.glob("*")):
        remedy = "if no run is under way: snakemake --unlock"
        return warning("working folder", "this folder is locked by a run, or by one that was killed", remedy)
    return ok("working folder", "no run holds it")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
