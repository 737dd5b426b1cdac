"""Names that become names of files, tables and columns: which no file system and no database can keep apart or hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from histomake.base.spellings import alike, folded

DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})
"""Names of devices in Windows, which no file there may have, with any ending."""

LONGEST = 120
"""Characters of a name. A file name has at most 255 bytes, and names get endings, and parts for a file in writing."""


def name_problems(
    what: str, names: Iterable[str], *, reserved: Collection[str] = (), endings: Collection[str] = ()
) -> Iterator[str]:
    """Problems of names that must differ even where case and Unicode form do not count, as in SQL and on some disks.

    Args:
        what: what the names are, in messages.
        names: the names, in any order.
        reserved: names that have another meaning.
        endings: endings of other files or tables.
    """
    names = sorted(set(names))
    for group in alike(names, folded):
        yield f"{what} differ only in case or Unicode form: {quoted(group)}; files and SQL do not tell them apart"
    for name in names:
        key = folded(name)
        if key.partition(".")[0] in DEVICES:
            yield f"{what}: {name!r} is the name of a device in Windows; no file there can have it"
        if key in reserved:
            yield f"{what}: {name!r} has another meaning; choose another name"
        if ending := next((e for e in endings if key.endswith(e)), None):
            yield f"{what}: {quoted([name])} ends in {ending}, as other files and tables do; choose another name"
        if len(name.encode()) > LONGEST:
            yield f"{what}: {name[:20]!r}… has {len(name.encode())} bytes; file names hold {LONGEST} of them"
        if set("{}") & set(name):
            yield f"{what}: {name!r} contains a brace, a wildcard in Snakemake"


def quoted(names: Iterable[str]) -> str:
    """Names with all characters that are not ASCII spelt out, because they may look the same."""
    return ", ".join(map(ascii, names))
