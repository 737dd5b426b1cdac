"""The two sides of a stain transfer: which slides have which stain, and which patients are held out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from histomake.base.errors import ConfigError
from histomake.cohort.holding_out import LEAST, fixed_roles, held_out
from histomake.cohort.sheet import Slide
from histomake.cohort.side_contents import SIDES
from histomake.config import StainTransfer

SEPARATORS = re.compile(r"[,;+/|&]")
"""What separates several stains in a cell."""


@dataclass(frozen=True)
class SideMember:
    """A slide of a stain transfer. side: 0 for ``from``, 1 for ``to``; role: train, test or predict."""

    slide_id: str
    patient_id: str
    side: int
    role: str


def assign_sides(slides: Iterable[Slide], transfer: StainTransfer, *, seed: int, name: str) -> list[SideMember]:
    """The slides of both sides with their roles, sorted by id.

    A patient has one role on both sides. Roles of the sheet are kept, val as train; the patients to hold out are taken
    by a keyed hash from those with slides of one side, of the other and of both. Raises ConfigError if a row has both
    stains, or a side has no slide to learn from or no patient to hold out.
    """
    members = _members(slides, transfer, name)
    patients: dict[str, set[int]] = defaultdict(set)
    for slide, side in members:
        if slide.split != "predict":
            patients[slide.patient_id].add(side)
    section = f"stain_transfers.{name}"
    roles = fixed_roles([slide for slide, _ in members], section)
    sides_tested = {side for patient, role in roles.items() if role == "test" for side in patients[patient]}
    if len(sides_tested) < len(transfer.sides):
        free = {p: tuple(sorted(sides)) for p, sides in patients.items() if p not in roles}
        roles |= dict.fromkeys(held_out(free, share=transfer.test, key=f"{seed}\0{section}"), "test")
    found = [
        SideMember(
            slide.slide_id,
            slide.patient_id,
            side,
            "predict" if slide.split == "predict" else roles.get(slide.patient_id, "train"),
        )
        for slide, side in members
    ]
    _require_both(found, transfer, name)
    return sorted(found, key=lambda member: member.slide_id)


def _members(slides: Iterable[Slide], transfer: StainTransfer, name: str) -> list[tuple[Slide, int]]:
    """The slides of the sides, with the number of the side. Raises ConfigError for slides of both."""
    found: list[tuple[Slide, int]] = []
    mixed = []
    for slide in slides:
        cells = [slide.value(side.column) or "" for side in transfer.sides]
        items = [{item.strip() for item in SEPARATORS.split(cell)} for cell in cells]
        sides = [side for side, (own, cell) in enumerate(zip(transfer.sides, cells, strict=True)) if cell == own.value]
        named = [own.value for own, has in zip(transfer.sides, items, strict=True) if own.value in has]
        if len(sides) > 1 or (not sides and named):
            mixed.append(f"  {slide.slide_id}: {' and '.join(dict.fromkeys(cells))}")
        found += [(slide, side) for side in sides[:1]]
    if mixed:
        raise ConfigError(
            f"stain_transfers.{name}: slides with several stains in one row:\n"
            + "\n".join(mixed)
            + "\nA slide has one stain; correct the cell, or leave the slide out by another value"
        )
    return found


def _require_both(members: Iterable[SideMember], transfer: StainTransfer, name: str) -> None:
    """Raise ConfigError if a side has no slide, one patient, or no slide with one of the roles."""
    listed, problems = list(members), []
    for number, (key, side) in enumerate(zip(SIDES, transfer.sides, strict=True)):
        own = [member for member in listed if member.side == number]
        place = f"{key}: {side.value!r} in column {side.column!r}"
        patients = {member.patient_id for member in own if member.role != "predict"}
        missing = [role for role in ("train", "test") if role not in {member.role for member in own}]
        if not own:
            problems.append(f"  {place}: no slide has this value")
        elif len(patients) < LEAST:
            problems.append(f"  {place}: slides of {len(patients)} patient(s); {LEAST} are needed, one to hold out")
        elif missing:
            problems.append(f"  {place}: no slide to {' and to '.join(missing)}; assign roles in the split column")
    if problems:
        raise ConfigError(
            f"stain_transfers.{name}: stains cannot be learned from these slides:\n" + "\n".join(problems)
        )
