"""Atomic writing of files and directories, JSON, and sha256 digests."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import count, takewhile
from pathlib import Path

HASH_BLOCK = 1 << 22
HASH_THREADS = 4
SYNC_THREADS = 8
RENAME_ATTEMPTS = 5
LOCK_NAME = ".lock"
STORE_METADATA = "zarr.json"
TIMESTAMP = ".snakemake_timestamp"
"""Snakemake writes it into directories that are declared outputs. It is not part of the output."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Error numbers of file systems that do not support locks."""


def sync_directory(path: Path) -> None:
    """Flush a directory, so that a rename in it survives a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush the contents of a file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path. On success the file is flushed and renamed to ``path``; on failure it is removed."""
    target = Path(path)
    with _workplace(target) as place:
        yield place / target.name
        sync_file(place / target.name)
        (place / target.name).replace(target)
        sync_directory(target.parent)


@contextmanager
def atomic_directory(path: Path | str, *, sync: bool = True) -> Iterator[Path]:
    """Yield a new directory. On success it replaces ``path``; on failure it is removed.

    All files are flushed to the disk first; ``sync=False`` if the caller has already done so.

    A directory cannot be replaced in one step, so an old one is moved aside first. A reader sees the old tree, for a
    moment none, or the new tree, but never a partial one.
    """
    target = Path(path)
    with _workplace(target) as place:
        aside = place / target.name
        aside.mkdir()
        yield aside
        if sync:
            _sync_tree(aside)
        _take_place(aside, target, place)
        sync_directory(target.parent)


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A hidden, initially empty folder beside ``target`` for one writer, removed at the end.

    The writer holds a lock, which the kernel releases even after a kill -9. The next writer therefore recognises and
    removes the folders of dead writers, while live writers, also on other nodes, each have their own folder. On file
    systems without locks, no folder of another writer is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    place, lock = _claim(target)
    try:
        yield place
    finally:
        _release(place, lock)


def _claim(target: Path) -> tuple[Path, int | None]:
    """Claim and empty the first folder without a live writer; remove further folders without one. Returns its lock."""
    places = (target.with_name(f".{target.name}.{number}.partial") for number in count())
    try:
        place, lock = next((place, lock) for place in places if (lock := _lock(place)) is not None)
        for further in takewhile(Path.exists, places):
            if (stale := _lock(further)) is not None:
                _release(further, stale)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        place, lock = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial"), None
        place.mkdir()
    _empty(place)
    return place, lock


def _lock(place: Path) -> int | None:
    """Lock a writer's folder, creating it if needed; returns None while another writer holds the lock."""
    while True:
        with suppress(FileExistsError):
            place.mkdir()
        with suppress(FileNotFoundError), ExitStack() as undo:  # not found: its last owner is removing it
            descriptor = os.open(place / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
            undo.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            if os.path.samestat(os.fstat(descriptor), os.stat(place / LOCK_NAME)):
                undo.pop_all()
                return descriptor


def _release(place: Path, lock: int | None) -> None:
    """Remove a folder. Release the lock last, so that no other writer claims the folder early."""
    _empty(place)
    (place / LOCK_NAME).unlink(missing_ok=True)
    if lock is not None:
        os.close(lock)  # NFS keeps a removed file, and so its folder, until the file is closed
    with suppress(OSError):  # another writer has claimed the folder
        place.rmdir()


def _empty(place: Path) -> None:
    for path in place.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK_NAME:
            path.unlink(missing_ok=True)


def _sync_tree(path: Path) -> None:
    """Flush every file of a tree, several at once, so that the disk's journal commits them together."""
    with ThreadPoolExecutor(SYNC_THREADS) as pool:
        list(pool.map(sync_file, (p for p in path.rglob("*") if p.is_file())))


def _take_place(aside: Path, target: Path, place: Path) -> None:
    """Move an old ``target`` into ``place``, then rename ``aside`` to ``target``. Of two writers, the later wins."""
    for attempt in range(RENAME_ATTEMPTS):
        with suppress(FileNotFoundError):
            target.rename(place / f"old{attempt}")
        try:
            aside.rename(target)
            return
        except OSError:
            if attempt + 1 == RENAME_ATTEMPTS or not target.exists():
                raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path``, which is created, and wait for other holders.

    The kernel releases the lock when its process ends. On file systems without locks, nothing is locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def existing(pattern: Path, *, under: Path) -> list[Path]:
    """Existing files of a path in the folder ``under``, in which ``*`` stands for any name; sorted."""
    return sorted(under.glob(str(pattern.relative_to(under))))


def write_json(path: Path | str, content: object) -> None:
    """Write ``content`` as indented JSON with sorted keys, atomically."""
    with atomic_file(path) as aside:
        aside.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path: Path | str) -> str:
    """Hex sha256 of a file's bytes, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_files(paths: Sequence[Path | str]) -> list[str]:
    """Hex sha256 of several files, of which some are read at once: hashing waits for the disk or the file server."""
    return in_threads(sha256_file, paths, HASH_THREADS)


def in_threads[T, R](work: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """What ``work`` returns for each item, in order; for work on files, which waits for the disk or the file server."""
    chunk = max(1, len(items) // (4 * threads))  # a task per small file would cost more than reading the file
    blocks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    with ThreadPoolExecutor(threads) as pool:
        return [found for block in pool.map(lambda block: list(map(work, block)), blocks) for found in block]


def sha256_tree(path: Path | str) -> str:
    """Hex sha256 of a directory, see `tree_digest`, or of a single file. Snakemake's timestamp file is left out."""
    root = Path(path)
    if root.is_file():
        return sha256_file(root)
    files = (p for p in root.rglob("*") if p.is_file() and p.name != TIMESTAMP)
    return tree_digest({file.relative_to(root).as_posix(): sha256_file(file) for file in files})


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a directory. Snakemake's timestamp file is left out."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and p.name != TIMESTAMP)


def tree_digest(checksums: Mapping[str, str]) -> str:
    """Hex sha256 over the sorted list of (relative path, sha256) of the files of a directory."""
    digest = hashlib.sha256()
    for name, checksum in sorted(checksums.items()):
        digest.update(f"{name}\0{checksum}\n".encode())
    return digest.hexdigest()


def store_of(path: Path | str) -> Path:
    """The Zarr store that a ``zarr.json`` belongs to; any other path unchanged.

    Rules declare a store by its ``zarr.json``. A `directory()` output would be slower to plan, and Snakemake would
    write its timestamp file into a store that is hashed and served.
    """
    path = Path(path)
    return path.parent if path.name == STORE_METADATA else path


def write_empty_store(store: Path, outcome: Mapping[str, object]) -> None:
    """Write a Zarr group without arrays in place of a quarantined slide's store; its attributes hold ``outcome``."""
    with atomic_directory(store) as aside:
        content = {"zarr_format": 3, "node_type": "group", "attributes": {"histomake": outcome}}
        (aside / STORE_METADATA).write_text(json.dumps(content, indent=1, ensure_ascii=False))
