"""The sheet's column ``annotation``: one file, or a list of readers with a file each."""

from __future__ import annotations

import re

from histomake.base.records.consensus import CONSENSUS

READER = re.compile(r"(?P<reader>[A-Za-z0-9][A-Za-z0-9_-]*)=(?P<path>.*)")
"""An item of a list. A path that looks like one is written ``./x=y/file``."""

SEPARATOR = ";"


def parse_annotation(cell: str) -> tuple[str | None, dict[str, str], list[str]]:
    """Parse a cell: ``file``, or ``reader=file;reader=file``.

    Returns:
        The file of a single annotation, or None; files by reader, of at least two readers; and what is wrong. A single
        reader is a single annotation.
    """
    if SEPARATOR not in cell and not READER.fullmatch(cell):
        return cell or None, {}, []
    found: dict[str, str] = {}
    faults = []
    for item in map(str.strip, cell.split(SEPARATOR)):
        match = READER.fullmatch(item)
        if not match or not match["path"].strip():
            faults.append(
                f"annotation has the item {item!r} in a list of readers, not reader=file; write alice=a.xml;bob=b.xml, "
                f"and rename a file with {SEPARATOR!r} in its name"
            )
            continue
        reader, path = match["reader"], match["path"].strip()
        if reader.lower() == CONSENSUS:
            faults.append(f"annotation has a reader {reader!r}, which stands for all of them; give another id")
        if any(reader.lower() == other.lower() for other in found):
            faults.append(f"annotation has reader {reader!r} twice; ids differ by more than case")
        if path in found.values():
            faults.append(f"annotation has the file {path!r} twice; each reader needs a file")
        found[reader] = path
    if faults:
        return None, {}, faults
    if len(found) == 1:
        return next(iter(found.values())), {}, []
    return None, dict(sorted(found.items())), []
