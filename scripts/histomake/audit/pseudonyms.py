"""Pseudonyms of slides, patients and files for what leaves the site.

A pseudonym is a keyed digest (HMAC with SHA-256), so that nobody without the key can find out whether a name belongs to
it by trying names. The key and the map from names to pseudonyms are made in the results folder, readable by their owner
only, and are never exported.
"""

from __future__ import annotations

import csv
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path, PurePath

from histomake.base.errors import HistomakeError
from histomake.base.files import atomic_file
from histomake.base.layout import Layout

KEY_BYTES = 32
DIGITS = 16
"""Hexadecimal digits of a pseudonym: 64 bits, so that two of a million names are equal with a chance of 3e-8."""

OWNER_ONLY = 0o600


class Pseudonyms:
    """Pseudonyms of the names of one results folder: the same in every export of it, and different in others.

    Args:
        layout: The results folder. Its key is made when there is none.
        slides: Ids of all slides.
        root: The results folder as the run's paths name it, if not as ``layout`` does.

    Raises HistomakeError if the key cannot be read.
    """

    def __init__(self, layout: Layout, slides: Iterable[str], *, root: PurePath | None = None) -> None:
        self.layout, self._root, self._key = layout, root or layout.results, _key(layout.pseudonym_key)
        self._slides = sorted(slides, key=len, reverse=True)
        self._known: dict[tuple[str, str], str] = {}

    def of(self, kind: str, name: str) -> str:
        """The pseudonym of a name: ``kind``, such as slide or patient, and digits."""
        if (kind, name) not in self._known:
            digest = hmac.digest(self._key, f"{kind}\0{name}".encode(), "sha256").hex()
            self._known[kind, name] = f"{kind}-{digest[:DIGITS]}"
        return self._known[kind, name]

    def path(self, path: str) -> str:
        """A path in the results folder with pseudonyms of slides; of any other path, the pseudonym of the whole."""
        place = PurePath(path)
        if not place.is_relative_to(self._root):
            return self.of("file", path)
        return "/".join(map(self._part, place.relative_to(self._root).parts))

    def _part(self, part: str) -> str:
        for slide in self._slides:
            if part == slide or part.startswith(f"{slide}."):
                return self.of("slide", slide) + part[len(slide) :]
        return part

    def write_map(self) -> Path:
        """Write the map of all pseudonyms so far beside the key: kind, name, pseudonym. Returns its path."""
        with atomic_file(self.layout.pseudonyms) as aside:
            aside.touch(OWNER_ONLY)
            aside.chmod(OWNER_ONLY)
            with aside.open("w", newline="") as stream:
                writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
                writer.writerow(["kind", "name", "pseudonym"])
                writer.writerows([*names, pseudonym] for names, pseudonym in sorted(self._known.items()))
        return self.layout.pseudonyms


def _key(path: Path) -> bytes:
    """The key in a file, which is made if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    except FileExistsError:
        key = bytes.fromhex(text) if _is_key(text := path.read_text().strip()) else b""
    else:
        key = secrets.token_bytes(KEY_BYTES)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(key.hex())
    if not key:
        raise HistomakeError(f"{path} is not a key of pseudonyms. Restore it, or delete it: then pseudonyms change")
    return key


def _is_key(text: str) -> bool:
    return len(text) == 2 * KEY_BYTES and set(text) <= set("0123456789abcdef")
