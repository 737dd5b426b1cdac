"""Detection of names that differ only in spelling, such as P-4 and P04, for patients, sites and columns."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable

WORDS = re.compile(r"[^\W\d_]+|\d+")


def folded(name: str) -> str:
    """The name without differences of case, of Unicode form (as in ü, one character or two) and of spaces."""
    if name.isascii():
        return " ".join(name.lower().split())
    compatible = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(compatible.split())


def words(name: str) -> str:
    """The words and numbers of a name, without what is between them and without leading zeros: P-04 is P4."""
    return " ".join(word.lstrip("0") or "0" for word in WORDS.findall(folded(name)))


def alike(names: Iterable[str], key: Callable[[str], str]) -> list[list[str]]:
    """Groups of different names with the same key, sorted."""
    groups: dict[str, set[str]] = defaultdict(set)
    for name in names:
        groups[key(name)].add(name)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)
