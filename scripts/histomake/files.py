"""Owns writing to disk: every file appears whole or not at all, and can be hashed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HASH_BLOCK = 1 << 22
SYNC_THREADS = 8
RENAME_ATTEMPTS = 5


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")


def sync_directory(path: Path) -> None:
    """Make a rename inside ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Push the bytes of ``path`` to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a path to write to; on success it is synced and renamed to ``path``, on failure removed."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(target)
    try:
        yield aside
        sync_file(aside)
        aside.replace(target)
        sync_directory(target.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path | str) -> Iterator[Path]:
    """Yield a new directory to fill; on success it takes the place of ``path``, on failure it is removed.

    A directory cannot be replaced in one step, so an old one is moved aside first: a reader sees the old
    tree, for an instant none, or the new one, and never a half-written one.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(target)
    leftovers = [aside]
    try:
        aside.mkdir()
        yield aside
        _sync_tree(aside)
        _take_place(aside, target, leftovers)
        sync_directory(target.parent)
    finally:
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)


def _sync_tree(path: Path) -> None:
    """Push every file of a tree to the disk, several at once: the disk's journal then commits them together."""
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        list(pool.map(sync_file, (p for p in path.rglob("*") if p.is_file())))


def _take_place(aside: Path, target: Path, leftovers: list[Path]) -> None:
    """Rename ``aside`` to ``target``, and what is there to a leftover: of two runs at once, the later one stays."""
    for attempt in range(RENAME_ATTEMPTS):
        leftovers.append(_aside(target))
        with suppress(FileNotFoundError):
            target.rename(leftovers[-1])
        try:
            aside.rename(target)
            return
        except OSError:
            if attempt + 1 == RENAME_ATTEMPTS or not target.exists():
                raise


def write_json(path: Path | str, content: Any) -> None:
    """Write ``content`` as indented JSON with sorted keys, atomically."""
    with atomic_file(path) as aside:
        aside.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text())


def sha256_file(path: Path | str) -> str:
    """Hex sha256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_tree(path: Path | str) -> str:
    """Hex sha256 over the sorted (relative path, file sha256) list of a directory, or of a single file."""
    root = Path(path)
    if root.is_file():
        return sha256_file(root)
    digest = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(root).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()
