"""Fingerprints of slides and other input files: digests that change when the bytes change.

Fingerprints are params of the rules, which Snakemake compares: a job runs again when its slide has other bytes, and not
when the file was touched or copied.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from histomake.base.addresses import in_object_store
from histomake.base.files import atomic_file
from histomake.slide.companions import named_files

SAMPLE_BYTES = 64 * 1024
SAMPLED_BLOCKS = 4
MISSING = "missing"
DIGITS = 32

log = logging.getLogger(__name__)


class Known(msgspec.Struct, array_like=True):
    """What the memory holds of a slide: name, size and modification time (ns) of each file, and the fingerprint.

    Of a file in an object store, the tag of its content is a part of the name, and the time is 0.
    """

    stamp: list[tuple[str, int, int]]
    fingerprint: str


def quick_fingerprint(files: Mapping[str, Path]) -> str:
    """Digest of names, sizes, and evenly sampled blocks of a slide's files, the first and the last bytes among them.

    At most 384 KiB are read per file. An edit in mid-file that keeps the size can go undetected. The sheet's ``sha256``
    column detects it, because `convert` hashes every byte.

    Args:
        files: the files by name, as `histomake.slide.companions.named_files` gives them.
    """
    digest = hashlib.sha256()
    for name, file in files.items():
        size = file.stat().st_size
        with open(file, "rb") as stream:

            def read(offset: int, stream: BinaryIO = stream) -> bytes:
                stream.seek(offset)
                return stream.read(SAMPLE_BYTES)

            _add_samples(digest, name, size, read)
    return digest.hexdigest()[:DIGITS]


def stored_fingerprint(file: StoredBytes) -> str:
    """As `quick_fingerprint`, of a slide that is one file in an object store: the ranges alone are fetched."""
    digest = hashlib.sha256()
    _add_samples(digest, file.name, file.size, lambda offset: file.read(offset, SAMPLE_BYTES))
    return digest.hexdigest()[:DIGITS]


def _add_samples(digest: hashlib._Hash, name: str, size: int, read: Callable[[int], bytes]) -> None:
    digest.update(f"{name}\0{size}\0".encode())
    for offset in _sample_offsets(size):
        digest.update(read(offset))


def _sample_offsets(size: int) -> list[int]:
    last = max(0, size - SAMPLE_BYTES)
    return sorted({last * i // (SAMPLED_BLOCKS + 1) for i in range(SAMPLED_BLOCKS + 2)})


class StoredBytes(Protocol):
    """A file in an object store."""

    @property
    def name(self) -> str:
        """The last part of its key."""

    @property
    def size(self) -> int:
        """Its size in bytes."""

    @property
    def tag(self) -> str:
        """The store's tag of its content, which changes with it."""

    def read(self, offset: int, count: int) -> bytes:
        """Bytes from ``offset``; fewer than ``count`` at the end."""


class Fingerprints:
    """Fingerprints of slides, remembered by name, size and modification time of their files.

    With the memory, a large cohort is not read at every start. Jobs read it; only the main process (``remember=True``)
    writes it, once, when it ends. A file in an object store has the fingerprint that its copy in a folder has; it is
    remembered by name, size and the tag of its content. ``stored`` looks up such files by address.
    """

    def __init__(
        self, memory: Path | str, *, remember: bool, stored: Callable[[str], StoredBytes | None] | None = None
    ) -> None:
        self.memory, self._stored = Path(memory), stored
        self._known: dict[str, Known] = {}
        self._changed = False
        try:
            self._known = msgspec.json.decode(self.memory.read_bytes(), type=dict[str, Known])
        except FileNotFoundError:
            log.debug("no fingerprint memory yet at %s", self.memory)
        except (msgspec.MsgspecError, OSError) as error:
            log.warning("fingerprint memory %s is unusable (%s); all slides are read again", self.memory, error)
        if remember:
            atexit.register(self.save)

    def of(self, path: str) -> str:
        """Fingerprint of one slide; MISSING if the file does not exist or the folder is empty."""
        if in_object_store(path):
            return self._of_stored(path)
        try:
            files = named_files(path)
            stamp = [(name, s.st_size, s.st_mtime_ns) for name, file in files.items() for s in [file.stat()]]
        except FileNotFoundError:
            return MISSING
        return self._remembered(path, stamp, lambda: quick_fingerprint(files)) if stamp else MISSING

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder at a path, or a file at an address."""
        return self.of(path) != MISSING if in_object_store(path) else Path(path).exists()

    def _of_stored(self, address: str) -> str:
        if self._stored is None or (file := self._stored(address)) is None:
            return MISSING
        stamp = [(f"{file.name}\0{file.tag}", file.size, 0)]
        return self._remembered(address, stamp, lambda: stored_fingerprint(file))

    def _remembered(self, path: str, stamp: list[tuple[str, int, int]], read: Callable[[], str]) -> str:
        known = self._known.get(path)
        if known is None or known.stamp != stamp:
            known = self._known[path] = Known(stamp, read())
            self._changed = True
        return known.fingerprint

    def save(self) -> None:
        """Write the memory if fingerprints were added. A read-only folder costs only time, so it is not an error."""
        if not self._changed:
            return
        try:
            with atomic_file(self.memory) as aside:
                aside.write_bytes(msgspec.json.encode(self._known, order="sorted"))
            self._changed = False
        except OSError as error:
            log.warning("fingerprints could not be written to %s: %s", self.memory, error)
