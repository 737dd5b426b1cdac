"""The software bill of materials of the lock, as CycloneDX 1.6 JSON.

`python envs/sbom.py FILE` writes it (`make sbom`). It depends on the lock alone, so that two of one lock are equal.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.txt"
NAMESPACE = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")
"""Namespace of identifiers (RFC 9562, 6.6), for the serial number of the bill."""


def locked(text: str) -> dict[str, tuple[str, list[str]]]:
    """Version and sha256 of all files of every package in a lock, by name."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in text.splitlines():
        if pin := re.match(r"([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", line):
            name = pin[1]
            found[name] = pin[2], []
        elif digest := re.match(r"\s+--hash=sha256:([0-9a-f]{64})", line):
            found[name][1].append(digest[1])
    return found


def bill(text: str) -> dict[str, Any]:
    """The bill of a lock with the given text."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = re.search(r'__version__ = "([^"]+)"', (ROOT / "scripts" / "histomake" / "version.py").read_text())
    assert version is not None
    components = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{pinned}",
            "name": name,
            "version": pinned,
            "purl": f"pkg:pypi/{name}@{pinned}",
            # One of these is installed: a package has a file per platform.
            "hashes": [{"alg": "SHA-256", "content": digest} for digest in digests],
        }
        for name, (pinned, digests) in sorted(locked(text).items())
    ]
    serial = uuid.uuid5(NAMESPACE, hashlib.sha256(text.encode()).hexdigest())
    main = {"type": "application", "bom-ref": project["name"], "name": project["name"], "version": version[1]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": main},
        "components": components,
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(bill(LOCK.read_text()), indent=1) + "\n")
