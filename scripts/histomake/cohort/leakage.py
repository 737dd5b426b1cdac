"""Owns the leakage gate: no patient and no slide is in two roles, and no model is tested on what it was made with.

Apart from `cohort`, which says who gets which role: models depend on the gate's code, and not on how roles are drawn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from histomake.base.errors import ConfigError

FITTED = ("train", "val")
"""Roles a model sees while it is made."""

JUDGED = (*FITTED, "test")
"""Roles that no patient and no slide may have two of."""


@dataclass(frozen=True)
class Assignment:
    """The role of one slide in one fold."""

    fold: int
    slide_id: str
    patient_id: str
    role: str


def leaks(assignments: Iterable[Assignment], fingerprints: Mapping[str, str]) -> list[str]:
    """Every way in which one fold's roles share a patient or the very same slide bytes; empty when clean.

    ``fingerprints``: slide id → digest of the slide's bytes (a slide without one is not compared).
    """
    seen: dict[tuple[int, str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for a in assignments:
        seen[a.fold, "patient", a.patient_id][a.role].add(a.slide_id)
        if digest := fingerprints.get(a.slide_id):
            seen[a.fold, "slide bytes", digest][a.role].add(a.slide_id)
    found = []
    for (fold, kind, key), by_role in seen.items():
        learned = {role: ids for role, ids in by_role.items() if role in JUDGED}
        if len(learned) > 1:
            places = "; ".join(f"{role}: {', '.join(sorted(ids))}" for role, ids in sorted(learned.items()))
            found.append(f"fold {fold}: same {kind} {key[:16]} in {places}")
    return sorted(found)


def refuse_leaks(found: list[str], task: str) -> None:
    """Raise a ConfigError that lists the leaks of a task, if there are any."""
    if found:
        raise ConfigError(
            f"task {task}: slides leak between roles:\n  "
            + "\n  ".join(found)
            + "\nRemove the duplicates from the sheet, give the slides the same patient_id, or let slides that a "
            "model has seen be predicted (split: predict) and not tested"
        )


def seen_before(assignments: Iterable[Assignment], fingerprints: Mapping[str, str], seen: Iterable[str]) -> list[str]:
    """Test slides whose bytes a model was made with; ``seen``: the beginnings of their digests that it remembers."""
    known = set(seen)
    lengths = {len(beginning) for beginning in known}
    tested = {a.slide_id for a in assignments if a.role == "test"} & fingerprints.keys()
    return sorted(s for s in tested if any(fingerprints[s][:n] in known for n in lengths))
