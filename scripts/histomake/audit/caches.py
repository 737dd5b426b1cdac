"""Caches of earlier runs, used only if they are those that the record of the last run states.

Rules with files of every slide keep what they have read in ``memory/``. Whoever can write into the results could
otherwise alter what is kept, and the next job would take it over without any digest that shows it. For the same reason
outputs of an earlier job that a later one of the same slide takes over must be what the register vouches for.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from histomake.audit.register import REGISTER, REGISTERED
from histomake.audit.run_chain import read_links, recorded_caches
from histomake.audit.sidecar import SIDECAR
from histomake.base.errors import HistomakeError
from histomake.base.file_cache import FileCache
from histomake.base.files import sha256_file
from histomake.base.layout import Layout
from histomake.base.records.sidecar import Sidecar

log = logging.getLogger(__name__)


def open_cache(layout: Layout, name: str, version: str = "") -> FileCache:
    """The cache of a rule, which is empty unless the record of the last run states its digest. See `FileCache`."""
    place = layout.file_cache(name)
    discard_unrecorded(layout, place)
    return FileCache(place, version)


def discard_unrecorded(layout: Layout, *places: Path) -> None:
    """Remove caches that the record of the last run does not state. This costs time, and changes no result."""
    found = [place for place in places if place.is_file()]
    recorded = recorded_caches(read_links(layout)) if found else {}
    for place in found:
        if recorded.get(place.name) != sha256_file(place):
            log.warning("%s is not what the last run left; everything is read again", place)
            place.unlink(missing_ok=True)


def stated_digest(layout: Layout, output: Path) -> str | None:
    """sha256 of an output of an earlier run, as its sidecar states it; None unless the register has that sidecar.

    Only the rows of this sidecar are read, so that every job can ask.
    """
    sidecar = Path(f"{output}{SIDECAR}")
    name = str(sidecar.relative_to(layout.results))
    sha256 = None
    for link in read_links(layout):
        path = layout.runs / link.name / REGISTER
        if link.record.register is None:
            continue
        try:
            rows = pq.read_table(path, filters=[("path", "=", name)]).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise HistomakeError(f"{path} cannot be read: {error}. Restore it from a backup") from error
        for row in rows:
            if row["change"] in REGISTERED:
                sha256 = row["sha256"]
            elif row["change"] == "retired":
                sha256 = None
    if sha256 is None or not sidecar.is_file() or sha256_file(sidecar) != sha256:
        return None
    return next((digest for path, digest in Sidecar.read(sidecar).outputs.items() if Path(path) == output), None)
