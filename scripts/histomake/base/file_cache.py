"""Cache of the texts of small files, for rules that read records and sidecars of every slide.

On a shared file system, reading a file takes about three round trips, and asking for its size and modification time
one. A file whose size and time are unchanged is taken from the cache; files are requested in parallel.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from histomake.base.files import in_threads
from histomake.base.tables import write_table

THREADS = 16
"""Number of parallel requests. They wait for the file server, not for the CPU."""

SCHEMA = pa.schema([("path", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("text", pa.large_string())])

VERSION = b"version"

Stamp = tuple[int, int]

log = logging.getLogger(__name__)


def stamps(paths: Sequence[str]) -> list[Stamp | None]:
    """Return size and modification time (ns) of every file; None for a file that does not exist."""
    return in_threads(_stamp, paths, THREADS)


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def read_text(path: str) -> str:
    """The text of a small file (UTF-8)."""
    with open(path, "rb", buffering=0) as stream:
        return stream.read().decode()


class FileCache:
    """Texts of small files, cached in one Parquet file by path, size and modification time.

    The cache only saves time: if it is missing or cannot be read, all files are read. `save` keeps the files requested
    from this object, and no others.

    Args:
        path: The Parquet file; None to read all files and cache nothing.
        version: Version of the texts, if they are computed from the files; a cache of another version is not used.
    """

    def __init__(self, path: Path | None = None, version: str = "") -> None:
        self.path, self.version = path, version
        self.check: Callable[[Sequence[str]], object] = lambda paths: None
        """Called with the files that will be read, before they are: a job compares them with their digests."""
        self.files_read = 0
        """Number of requested files that were not in the cache."""
        self._requested: dict[str, tuple[Stamp, str]] = {}
        self._cached: dict[str, tuple[Stamp, int]] = {}
        if path is not None:
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            table = pq.read_table(path)
        except FileNotFoundError:
            return
        except (pa.ArrowException, OSError) as error:
            log.warning("%s cannot be used (%s); reading all files", path, error)
            return
        if not table.schema.equals(SCHEMA) or table.schema.metadata.get(VERSION) != self.version.encode():
            return
        self._texts = table["text"].combine_chunks()
        columns = (table[name].to_pylist() for name in ("path", "size", "mtime_ns"))
        self._cached = {name: ((size, time), i) for i, (name, size, time) in enumerate(zip(*columns, strict=True))}

    def read_texts(self, paths: Iterable[Path | str], read: Callable[[str], str] = read_text) -> list[str | None]:
        """Return the text of every file, or what ``read`` computes from its path; None if the file does not exist."""
        names = [str(path) for path in paths]
        wanted = [name for name in dict.fromkeys(names) if name not in self._requested]
        missing: list[tuple[str, Stamp]] = []
        for name, stamp in zip(wanted, stamps(wanted), strict=True):
            cached = self._cached.get(name)
            if stamp is None:
                continue
            if cached and cached[0] == stamp:
                self._requested[name] = stamp, self._texts[cached[1]].as_py()
            else:
                missing.append((name, stamp))
        # The stamp is taken before the text is read, so a file that changes in between is read again the next time.
        files = [name for name, _ in missing]
        self.check(files)
        for (name, stamp), text in zip(missing, in_threads(read, files, THREADS), strict=True):
            self._requested[name] = stamp, text
        self.files_read += len(missing)
        return [self._requested[name][1] if name in self._requested else None for name in names]

    def read_records[R](
        self, paths: Iterable[Path | str], decode: Callable[[str, str], R], read: Callable[[str], str] = read_text
    ) -> list[R]:
        """Return the record in every file, decoded by ``decode`` from the text that ``read`` returns, and the path.

        Raises FileNotFoundError for a file that does not exist, and the exceptions of ``decode``.
        """
        names = list(map(str, paths))
        found = []
        for name, text in zip(names, self.read_texts(names, read), strict=True):
            if text is None:
                raise FileNotFoundError(f"{name}: no such file")
            found.append(decode(text, name))
        return found

    def save(self) -> None:
        """Write the requested files to the cache, unless it already contains exactly these."""
        if self.path is None or (not self.files_read and len(self._requested) == len(self._cached)):
            return
        rows = ((name, *stamp, text) for name, (stamp, text) in self._requested.items())
        columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
        table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
        write_table(table.replace_schema_metadata({VERSION: self.version.encode()}), self.path)
