"""The files that make up one slide, the names under which they are hashed, and their combined hash.

Snakemake needs the files of every slide at each start, so the imports of this module are light, and an ordinary slide
needs a single access to the file system.
"""

from __future__ import annotations

from os.path import isfile
from pathlib import Path

from histomake.base.files import tree_digest

INDEX_BYTES = 1 << 20
"""Bytes of a VMS or VMU file that are searched for names; such files have a few kB."""


def slide_files(path: Path | str) -> list[Path]:
    """Return the files that make up a slide, the slide file first; see `named_files`."""
    return list(named_files(path).values())


def named_files(path: Path | str) -> dict[str, Path]:
    """Return the files of a slide by the names under which they are hashed, which are relative to its folder.

    For a folder (DICOM) these are all files in it. An MRXS file includes all files in the folder of the same name, a
    VMS or VMU file (Hamamatsu) the existing files that it names. Any other file is a complete slide, independent of
    the files beside it.
    """
    path = Path(path)
    if path.is_dir():
        return {file.relative_to(path).as_posix(): file for file in _files_below(path)}
    find = COMPANIONS.get(path.suffix.lower())
    companions = find(path) if find else []
    return {path.name: path} | {file.relative_to(path.parent).as_posix(): file for file in companions}


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _files_named_in(index: Path) -> list[Path]:
    """Files of the same folder whose names are values of an INI file; paths to other folders are not followed."""
    names = {line.partition("=")[2].strip() for line in _lines(index)} - {"", index.name}
    # os.path.isfile also takes values that cannot be the name of a file.
    return sorted(index.with_name(name) for name in names if "/" not in name and isfile(index.parent / name))


def _names_in(index: Path) -> set[str]:
    """Names of image and map files that an INI file lists."""
    pairs = (line.partition("=") for line in _lines(index))
    return {value.strip() for key, _, value in pairs if "file" in key.lower() and value.strip()}


def _lines(index: Path) -> list[str]:
    with index.open("rb") as stream:
        return stream.read(INDEX_BYTES).decode(errors="replace").splitlines()


COMPANIONS = {
    ".mrxs": lambda path: _files_below(path.with_suffix("")),
    ".vms": _files_named_in,
    ".vmu": _files_named_in,
}
"""Function that finds the further files of a slide, by the suffix of the slide file."""


def missing_companions(path: Path) -> str | None:
    """Return what a slide of several files lacks, or None for a slide of one file.

    To be asked about a file that no reader recognises: without the others, an MRXS file is only a picture.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        folder = path.with_suffix("")
        known = "lacks Slidedat.ini or other files" if folder.is_dir() else "is missing"
        return f"an MRXS slide is this file and the folder {folder.name} beside it, which {known}"
    if suffix in COMPANIONS:
        lost = _names_in(path) - {file.name for file in _files_named_in(path)}
        listed = ", ".join(sorted(lost)[:5]) or "its image files"
        return f"a Hamamatsu slide is this file and the images that it names; missing or damaged: {listed}"
    return None


def combined_sha256(hashes: dict[str, str]) -> str:
    """Return the hash of a slide from the hashes of its files.

    For a single file this is its hash, otherwise the hash of the sorted (name, hash) list. For a folder the result
    equals that of ``files.sha256_tree``.
    """
    return next(iter(hashes.values())) if len(hashes) == 1 else tree_digest(hashes)
