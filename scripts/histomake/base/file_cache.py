"""Owns reading thousands of small files at every run: what has not changed since the last is taken from one file.

A cohort's aggregates read records and sidecars of every slide. On a shared file system each costs a round trip or
three; a file that still has the size and the time it was read with costs one, and they are asked for side by side.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from histomake.base.tables import write_table

THREADS = 16
"""Requests under way at once; they wait for the file server and not for the CPU."""

SCHEMA = pa.schema([("path", pa.string()), ("size", pa.int64()), ("mtime_ns", pa.int64()), ("text", pa.large_string())])

VERSION = b"version"

Stamp = tuple[int, int]

log = logging.getLogger(__name__)


def stamps(paths: Sequence[str]) -> list[Stamp | None]:
    """Size and time (ns) of every file; None where there is none."""
    chunk = max(1, len(paths) // (4 * THREADS))
    blocks = [paths[i : i + chunk] for i in range(0, len(paths), chunk)]
    with ThreadPoolExecutor(THREADS) as pool:
        return [stamp for block in pool.map(lambda block: [_stamp(path) for path in block], blocks) for stamp in block]


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


class Recall:
    """Texts of small files, remembered in one Parquet file by path, size and time.

    The memory only saves time: without it, or when it cannot be read, every file is read. `save` keeps the files that
    were asked for since, and no others.

    Args:
        memory: the Parquet file; None to read every file and keep nothing.
        version: of what is made of files that are no text themselves; another version's memory is not used.
    """

    def __init__(self, memory: Path | None = None, version: str = "") -> None:
        self.memory, self.version = memory, version
        self.read = 0
        """Files that had to be read, of all asked for."""
        self._asked: dict[str, tuple[Stamp, str]] = {}
        self._known: dict[str, tuple[Stamp, int]] = {}
        if memory is not None:
            self._load(memory)

    def _load(self, memory: Path) -> None:
        try:
            table = pq.read_table(memory)
        except FileNotFoundError:
            return
        except (pa.ArrowException, OSError) as error:
            log.warning("%s is unusable (%s); every file is read", memory, error)
            return
        if not table.schema.equals(SCHEMA) or table.schema.metadata.get(VERSION) != self.version.encode():
            return
        self._texts = table["text"].combine_chunks()
        columns = (table[name].to_pylist() for name in ("path", "size", "mtime_ns"))
        self._known = {path: ((size, time), i) for i, (path, size, time) in enumerate(zip(*columns, strict=True))}

    def texts(
        self, paths: Iterable[Path | str], read: Callable[[str], str] = lambda path: Path(path).read_text()
    ) -> list[str | None]:
        """What every file says, or what ``read`` makes of it; None where there is none."""
        names = [str(path) for path in paths]
        wanted = [name for name in dict.fromkeys(names) if name not in self._asked]
        missing: list[tuple[str, Stamp]] = []
        for name, stamp in zip(wanted, stamps(wanted), strict=True):
            known = self._known.get(name)
            if stamp is None:
                continue
            if known and known[0] == stamp:
                self._asked[name] = stamp, self._texts[known[1]].as_py()
            else:
                missing.append((name, stamp))
        # The stamp is older than the text: a file that changes in between is read again the next time.
        with ThreadPoolExecutor(THREADS) as pool:
            for (name, stamp), text in zip(missing, pool.map(read, (name for name, _ in missing)), strict=True):
                self._asked[name] = stamp, text
        self.read += len(missing)
        return [self._asked[name][1] if name in self._asked else None for name in names]

    def records[R](self, paths: Iterable[Path | str], decode: Callable[[str, str], R]) -> list[R]:
        """The record in every file; ``decode`` makes it of the text and the path.

        Raises FileNotFoundError where a file does not exist, and what ``decode`` raises.
        """
        names = list(map(str, paths))
        found = []
        for name, text in zip(names, self.texts(names), strict=True):
            if text is None:
                raise FileNotFoundError(f"{name}: no such file")
            found.append(decode(text, name))
        return found

    def save(self) -> None:
        """Keep what was asked for; nothing is written when it is what was known."""
        if self.memory is None or (not self.read and len(self._asked) == len(self._known)):
            return
        rows = ((path, *stamp, text) for path, (stamp, text) in self._asked.items())
        columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
        table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
        write_table(table.replace_schema_metadata({VERSION: self.version.encode()}), self.memory)
