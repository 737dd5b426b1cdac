"""Caches of earlier runs, used only if they are those that the record of the last run states.

Rules with files of every slide keep what they have read in ``memory/``. Whoever can write into the results could
otherwise alter what is kept, and the next job would take it over without any digest that shows it. For the same reason
outputs of an earlier job that a later one of the same slide takes over must be what the register vouches for.
"""

from __future__ import annotations

import logging
from pathlib import Path

from histomake.audit.register import registered
from histomake.audit.run_chain import read_links, recorded_caches
from histomake.audit.sidecar import SIDECAR
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

    Raises HistomakeError if the register cannot be read.
    """
    sidecar = Path(f"{output}{SIDECAR}")
    name = str(sidecar.relative_to(layout.results))
    entry = registered(layout, read_links(layout), only=name).get(name)
    if entry is None or not sidecar.is_file() or sha256_file(sidecar) != entry.sha256:
        return None
    return next((digest for path, digest in Sidecar.read(sidecar).outputs.items() if Path(path) == output), None)
