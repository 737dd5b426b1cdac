"""Verification of a store against the checksums in its manifest, and of the manifest against the slide file."""

from __future__ import annotations

from pathlib import Path

from histomake.base.errors import SlideError
from histomake.base.files import sha256_file
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined
from histomake.slide.companions import combined_sha256, named_files
from histomake.slide.source import open_source


def verify_slide(manifest: Path | str, source: Path | str | None = None) -> list[str]:
    """Hash a slide's store again, and its source file or folder if given; return the mismatches found.

    Each message names the slide, the file and the problem. The list is empty for a quarantined slide, which has no
    store.
    """
    manifest = Path(manifest)
    record = Manifest.read(manifest)
    if isinstance(record, Quarantined):
        return []
    problems = _store_problems(manifest.parent / record.store, record.checksums)
    if source is not None:
        problems += _source_problems(Path(source), record)
    return [f"slide {record.slide_id}: {problem}" for problem in problems]


def _store_problems(store: Path, checksums: dict[str, str]) -> list[str]:
    if not store.exists():
        return [f"{store} is missing"]
    root = store if store.is_dir() else store.parent
    problems = []
    for name, expected in checksums.items():
        file = root / name
        if not file.is_file():
            problems.append(f"{file} is missing")
        elif sha256_file(file) != expected:
            problems.append(f"{file} has changed since it was written")
    if store.is_dir():
        found = list(store.rglob("*"))
        files = {path.relative_to(store).as_posix() for path in found if path.is_file()}
        problems += [f"{store / name} was not written by the conversion" for name in sorted(files - set(checksums))]
        # What lies in a linked folder is not among the files found, but is read as any tile.
        problems += [f"{path} is a link; a conversion writes none" for path in sorted(found) if path.is_symlink()]
    return problems


def _source_problems(source: Path, record: Manifest) -> list[str]:
    if not source.exists():
        return [f"{source} is missing"]
    try:
        open_source(source, slide_id=record.slide_id).close()
    except SlideError as error:
        return [f"{source}: {error.detail}"]
    actual = combined_sha256({name: sha256_file(path) for name, path in named_files(source).items()})
    if actual == record.sha256:
        return []
    return [f"{source} has sha256 {actual}; the store was made from {record.sha256}"]
