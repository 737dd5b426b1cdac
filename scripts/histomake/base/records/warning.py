"""Warnings of usable slides, collected from the records of all stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self

from histomake.base.records.record import Quarantined, Record, StageRecord, Upgrade, same


class SlideWarning(Record, frozen=True, kw_only=True):
    """One warning about a slide that is used: what was left out, is doubtful, or was assumed."""

    NAME: ClassVar[str] = "slide warning"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (same,)

    slide_id: str
    """Slide."""
    about: str
    """Kind of the record that has the warning, such as ``slide manifest`` or ``annotation record``."""
    text: str
    """The warning, in complete sentences."""

    @classmethod
    def of_lost_original(cls, slide_id: str) -> Self:
        """Warning that the file of a slide is missing."""
        text = "Its original file is missing; the store that was made from it is used."
        return cls(slide_id=slide_id, about="slide manifest", text=text)

    @classmethod
    def of(cls, records: Iterable[StageRecord | Quarantined], *, lost: Iterable[str] = ()) -> list[Self]:
        """All warnings of records, sorted by slide; without those of the slides ``lost``, which are not used."""
        left_out = set(lost)
        kept = [r for r in records if isinstance(r, StageRecord) and r.slide_id not in left_out]
        found = [cls(slide_id=r.slide_id, about=r.NAME, text=text) for r in kept for text in r.warnings]
        return sorted(found, key=lambda warning: warning.slide_id)
