"""Hashing of slide files while they are copied, with detection of concurrent changes."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from histomake.base.errors import Reason, SlideError
from histomake.slide.companions import combined_sha256, named_files
from histomake.slide.sources.base import Source

BLOCK_BYTES = 1 << 20
"""Block size for reading and hashing; small enough for the CPU cache."""


class SourceHash:
    """sha256 of the bytes of a source, computed in a thread parallel to the copy.

    The copy has just read the same bytes, so they come from the page cache.
    """

    def __init__(self, slide: Source, slide_id: str) -> None:
        self._slide, self._slide_id = slide, slide_id
        self._files = named_files(slide.path)
        self._before = self._stamps()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._hashes = {name: self._pool.submit(self._hash, path) for name, path in self._files.items()}

    def _stamps(self) -> list[tuple[int, int]]:
        return [(s.st_size, s.st_mtime_ns) for s in (path.stat() for path in self._files.values())]

    def _hash(self, path: Path) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(BLOCK_BYTES))
        try:
            with path.open("rb", buffering=0) as stream:
                while not self._stop.is_set() and (count := stream.readinto(buffer)):
                    digest.update(buffer[:count])
        except OSError as error:
            raise self._changed(str(error)) from error
        return digest.hexdigest()

    def __enter__(self) -> SourceHash:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def result(self) -> str:
        """Return the hash. Raises SlideError if the slide changed while it was read."""
        hashes = {name: future.result() for name, future in self._hashes.items()}
        try:
            after = self._stamps()
        except OSError as error:
            raise self._changed(str(error)) from error
        if after != self._before:
            raise self._changed("its size or modification time changed")
        return combined_sha256(hashes)

    def _changed(self, detail: str) -> SlideError:
        return SlideError(
            Reason.UNREADABLE,
            slide_id=self._slide_id,
            path=self._slide.path,
            detail=f"the slide changed while it was read: {detail}",
            remedy="Wait until the scanner or the copy has finished writing the slide",
        )
