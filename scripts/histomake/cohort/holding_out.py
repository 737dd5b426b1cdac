"""Patients that generative networks are not learned from, but compared with."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from histomake.base.errors import ConfigError
from histomake.cohort.sheet import Slide

LEAST = 2
"""Patients that are needed: one to learn from, and one that is held out."""


def fixed_roles(slides: Iterable[Slide], section: str) -> dict[str, str]:
    """Roles of patients that the sheet gives: train or test. Raises ConfigError for a patient with both.

    ``val`` counts as train. ``section`` of the configuration is named in the message.
    """
    given: dict[str, set[str]] = defaultdict(set)
    for slide in slides:
        if slide.split in ("train", "val", "test"):
            given[slide.patient_id].add("test" if slide.split == "test" else "train")
    both = sorted(patient for patient, roles in given.items() if len(roles) > 1)
    if both:
        raise ConfigError(f"{section}: patients with two roles in the split column: {', '.join(both)}")
    return {patient: roles.pop() for patient, roles in given.items()}


def held_out(patients: Mapping[str, tuple[int, ...]], *, share: float, key: str) -> set[str]:
    """Patients to hold out: a share of those of each stratum, at least one of two or more, by a hash with ``key``."""
    strata: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for patient in sorted(patients, key=lambda p: hashlib.blake2b(f"{key}\0{p}".encode(), digest_size=16).digest()):
        strata[patients[patient]].append(patient)
    counts = {s: min(max(1, round(share * len(members))), len(members) - 1) for s, members in strata.items()}
    return {patient for stratum, members in strata.items() for patient in members[: counts[stratum]]}
