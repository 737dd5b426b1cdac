"""Known vulnerabilities of the locked packages, from a file of advisories, without a network.

`python envs/advisories.py FILE` (`make advisories DATABASE=FILE`). FILE is a zip archive of advisories in the OSV
format (one JSON file each), such as that of the ecosystem PyPI, which OSV offers for download. The exit status is 1 if
an advisory concerns a locked version, and 2 if the file holds no advisories, since that would look like none.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

sys.path.insert(0, str(Path(__file__).parent))

from sbom import LOCK, locked


def canonical(name: str) -> str:
    """The name of a package as locks spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def concerns(affected: dict[str, Any], version: str) -> bool:
    """Whether an ``affected`` entry of an advisory names a version, in its list or its ranges."""
    if version in affected.get("versions", ()):
        return True
    return any(
        _in_range(found["events"], Version(version))
        for found in affected.get("ranges", ())
        if found["type"] == "ECOSYSTEM"
    )


def _in_range(events: list[dict[str, str]], version: Version) -> bool:
    """Whether a version lies in a range, whose events are ordered (OSV 1.6, ``affected[].ranges[].events``)."""
    inside = False
    for event in events:
        ((kind, text),) = event.items()
        try:
            edge = Version("0") if text == "0" else Version(text)
        except InvalidVersion:
            continue
        if kind == "introduced" and version >= edge:
            inside = True
        elif (kind == "fixed" and version >= edge) or (kind == "last_affected" and version > edge):
            inside = False
    return inside


def advisories(path: Path) -> Iterator[dict[str, Any]]:
    """The advisories in an archive, without those that were withdrawn."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".json"):
                advisory = json.loads(archive.read(name))
                if not advisory.get("withdrawn"):
                    yield advisory


def main(path: Path) -> int:
    """Print what concerns the lock; returns the exit status."""
    pins, found, read = locked(LOCK.read_text()), [], 0
    for advisory in advisories(path):
        read += 1
        for affected in advisory.get("affected", ()):
            package = affected.get("package", {})
            name = canonical(package.get("name", ""))
            if package.get("ecosystem") == "PyPI" and name in pins and concerns(affected, pins[name][0]):
                found.append(f"{name} {pins[name][0]}: {advisory['id']} {advisory.get('summary', '')}".rstrip())
    if not read:
        print(f"{path} holds no advisory in the OSV format", file=sys.stderr)
        return 2
    print("\n".join([*sorted(set(found)), f"{read:,} advisories compared with {len(pins)} locked packages"]))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
