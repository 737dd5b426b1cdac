"""Fingerprints of slides and other input files: digests that change when the bytes change.

Fingerprints are params of the rules, which Snakemake compares: a job runs again when its slide has other bytes, and not
when the file was touched or copied.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from histomake.base.files import write_json

SAMPLE_BYTES = 64 * 1024
SAMPLED_BLOCKS = 4

log = logging.getLogger(__name__)


def slide_files(path: Path | str) -> list[Path]:
    """The files that are one slide: the file itself; all files of a folder; for MRXS and VMS also the data folder."""
    path = Path(path)
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    companion = path.with_suffix("")
    if path.suffix and companion.is_dir():
        return [path, *sorted(p for p in companion.rglob("*") if p.is_file())]
    return [path]


def quick_fingerprint(path: Path | str) -> str:
    """Digest of a slide's size, head, tail and evenly sampled blocks: at most 384 KiB are read per file.

    It guards re-runs. An edit in mid-file that keeps the size can escape it, which a sheet's ``sha256`` catches;
    `convert` hashes every byte.
    """
    files = slide_files(path)
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with open(file, "rb") as stream:
            for offset in _sample_offsets(size):
                stream.seek(offset)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]


def _sample_offsets(size: int) -> list[int]:
    last = max(0, size - SAMPLE_BYTES)
    return sorted({last * i // (SAMPLED_BLOCKS + 1) for i in range(SAMPLED_BLOCKS + 2)})


class Fingerprints:
    """Fingerprints of slides, remembered by (path, size, mtime) so that a big cohort is not read at every start.

    Jobs read the same memory but only the main process (``remember=True``) writes it, once, when it ends.
    """

    def __init__(self, memory: Path | str, *, remember: bool) -> None:
        self.memory = Path(memory)
        self._known: dict[str, list[Any]] = {}
        self._dirty = False
        try:
            self._known = json.loads(self.memory.read_text())
        except FileNotFoundError:
            log.debug("no fingerprint memory yet at %s", self.memory)
        except (ValueError, OSError) as error:
            log.warning("fingerprint memory %s is unusable (%s); slides are read again", self.memory, error)
        if remember:
            atexit.register(self.save)

    def of(self, path: str) -> str:
        """Fingerprint of one slide, or ``missing`` when there is no such file."""
        try:
            stamp = [[s.st_size, s.st_mtime_ns] for s in (f.stat() for f in slide_files(path))]
        except FileNotFoundError:
            return "missing"
        if not stamp:
            return "missing"
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = [stamp, quick_fingerprint(path)]
            self._dirty = True
        return known[1]

    def save(self) -> None:
        """Write the memory back, if anything was learned; a read-only folder only costs time, so it is no error."""
        if not self._dirty:
            return
        try:
            write_json(self.memory, self._known)
            self._dirty = False
        except OSError as error:
            log.warning("fingerprints could not be remembered in %s: %s", self.memory, error)
