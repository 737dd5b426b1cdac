"""The contents of the two sides of a stain transfer. Apart from `sides`, which assigns roles: see `leakage`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from histomake.base.errors import ConfigError

SIDES = ("from", "to")
"""Names of the sides, in the order of all pairs."""


def refuse_shared_slides(slides: Iterable[Sequence[str]], digests: Mapping[str, str]) -> None:
    """Raise ConfigError if a file is on both sides.

    Args:
        slides: Id, patient and side of each slide.
        digests: sha256 of the slides' files, by id; slides without one are not compared.
    """
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for slide, _, side in slides:
        if slide in digests:
            found[digests[slide]][side].append(slide)
    shared = [by_side for by_side in found.values() if len(by_side) > 1]
    if shared:
        pairs = "; ".join(" = ".join(f"{', '.join(ids)} ({side})" for side, ids in one.items()) for one in shared)
        raise ConfigError(
            f"the same file is on both sides of a stain transfer: {pairs}. A slide has one stain: correct the paths in "
            "the sheet, or leave one of the rows out by another value of its stain"
        )
