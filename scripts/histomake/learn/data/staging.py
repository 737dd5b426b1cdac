"""Copies of slide stores on the node's local disk, for shared file systems that are slow at random reads."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from histomake.base.errors import HistomakeError
from histomake.base.files import HASH_BLOCK
from histomake.base.records.manifest import Manifest
from histomake.base.records.record import Quarantined
from histomake.learn.data.patch_index import SlideEntry

COPIES = 8
"""Number of files copied concurrently."""

log = logging.getLogger(__name__)


@contextmanager
def staged(entries: Sequence[SlideEntry]) -> Iterator[list[SlideEntry]]:
    """Copy the slides' stores to $TMPDIR and yield entries of the copies, which are removed at the end.

    Every copied byte is hashed and compared with the manifest. Patch tables and annotations are small and read once, so
    they are not copied. Raises HistomakeError if the disk is too small or a copy differs from the converted store.
    """
    with tempfile.TemporaryDirectory(prefix="histomake-stores-") as folder:
        start, local = time.monotonic(), Path(folder)
        records = {entry.slide_id: Manifest.read(entry.manifest) for entry in entries}
        _check_space(local, records)
        with ThreadPoolExecutor(COPIES) as pool:
            places = dict(pool.map(lambda entry: (entry.slide_id, _copy(entry, records, local)), entries))
        seconds = time.monotonic() - start
        log.info("%d stores copied to %s and compared in %.1f s", len(places), local, seconds)
        yield [replace(entry, manifest=places[entry.slide_id]) for entry in entries]


def _check_space(local: Path, records: Mapping[str, Manifest | Quarantined]) -> None:
    needed = sum(record.bytes_out for record in records.values() if isinstance(record, Manifest))
    free = shutil.disk_usage(local).free
    if needed > free:
        raise HistomakeError(
            f"{local.parent} has {free / 1e9:.1f} GB free, but the stores need {needed / 1e9:.1f} GB: set TMPDIR to a "
            "larger disk of the node, or set train.stage to false"
        )


def _copy(entry: SlideEntry, records: Mapping[str, Manifest | Quarantined], local: Path) -> Path:
    """Copy one slide's store and manifest; returns the path of the copied manifest."""
    record, manifest = records[entry.slide_id], local / entry.manifest.name
    record.write(manifest)
    if isinstance(record, Quarantined):
        return manifest
    source = entry.manifest.parent / record.store
    is_folder = source.is_dir()
    for name, expected in record.checksums.items():
        origin, target = (source / name, local / record.store / name) if is_folder else (source, local / source.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if _copy_hashed(origin, target) != expected:
            raise HistomakeError(
                f"slide {entry.slide_id}: {origin} differs from the converted store; convert the slide again: "
                f"rm {entry.manifest}"
            )
    return manifest


def _copy_hashed(source: Path, target: Path) -> str:
    """Copy a file; returns the sha256 of the written bytes."""
    digest = hashlib.sha256()
    with open(source, "rb") as reading, open(target, "wb") as writing:
        while block := reading.read(HASH_BLOCK):
            digest.update(block)
            writing.write(block)
    return digest.hexdigest()
