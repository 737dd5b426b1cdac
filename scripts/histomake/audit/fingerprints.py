"""Fingerprints of slides and other input files: digests that change when the bytes change.

Fingerprints are params of the rules, which Snakemake compares: a job runs again when its slide has other bytes, and not
when the file was touched or copied.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from histomake.base.files import atomic_file
from histomake.slide.companions import named_files

SAMPLE_BYTES = 64 * 1024
SAMPLED_BLOCKS = 4
MISSING = "missing"

log = logging.getLogger(__name__)


class Known(msgspec.Struct, array_like=True):
    """What the memory holds of a slide: name, size and modification time (ns) of each file, and the fingerprint."""

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
        digest.update(f"{name}\0{size}\0".encode())
        with open(file, "rb") as stream:
            for offset in _sample_offsets(size):
                stream.seek(offset)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def _sample_offsets(size: int) -> list[int]:
    last = max(0, size - SAMPLE_BYTES)
    return sorted({last * i // (SAMPLED_BLOCKS + 1) for i in range(SAMPLED_BLOCKS + 2)})


class Fingerprints:
    """Fingerprints of slides, remembered by name, size and modification time of their files.

    With the memory, a large cohort is not read at every start. Jobs read it; only the main process (``remember=True``)
    writes it, once, when it ends.
    """

    def __init__(self, memory: Path | str, *, remember: bool) -> None:
        self.memory = Path(memory)
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
        try:
            files = named_files(path)
            stamp = [(name, s.st_size, s.st_mtime_ns) for name, file in files.items() for s in [file.stat()]]
        except FileNotFoundError:
            return MISSING
        if not stamp:
            return MISSING
        known = self._known.get(path)
        if known is None or known.stamp != stamp:
            known = self._known[path] = Known(stamp, quick_fingerprint(files))
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
