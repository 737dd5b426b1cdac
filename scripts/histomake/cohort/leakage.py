"""Leakage checks: no patient or slide has two roles, and no model is tested on slides it was trained with.

Separate from `folds`, which assigns roles: models depend on the code of the checks, not on the code of the assignment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from histomake.base.errors import ConfigError

FITTED = ("train", "val")
"""Roles of slides that are used to train a model, including validation."""

JUDGED = (*FITTED, "test")
"""Roles of which a patient or a slide may have only one."""


@dataclass(frozen=True)
class Assignment:
    """The role of one slide in one fold."""

    fold: int
    slide_id: str
    patient_id: str
    role: str


def leaks(assignments: Iterable[Assignment], fingerprints: Mapping[str, str]) -> list[str]:
    """Return all cases in which different roles of one fold share a patient or identical slide files.

    ``fingerprints`` maps slide ids to digests of the slide files; slides without a digest are not compared.
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
            + "\nRemove the duplicates from the sheet, give the slides the same patient_id, or set split: predict for "
            "slides that a model was trained with"
        )


def seen_before(assignments: Iterable[Assignment], fingerprints: Mapping[str, str], seen: Iterable[str]) -> list[str]:
    """Return test slides that a model was trained with; ``seen`` lists the digest prefixes stored in the model."""
    known = set(seen)
    lengths = {len(beginning) for beginning in known}
    tested = {a.slide_id for a in assignments if a.role == "test"} & fingerprints.keys()
    return sorted(s for s in tested if any(fingerprints[s][:n] in known for n in lengths))
