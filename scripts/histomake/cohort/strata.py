"""Strata of patients, and shares of patients that are the same in every stratum as far as whole patients allow.

A stratum is a tuple of values, one per column, the most important column first: shares are balanced over the values of
the first column, then within each of them over those of the second, and so on. Strata too small to be balanced on their
own are merged, but never over a column that must be kept apart, such as the class that a task learns.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Stratum = tuple[str, ...]

MERGED = "\uffff"
"""Value that replaces those of all small strata; no cell of a sheet can hold it, and it sorts last."""


def merge_small(strata: Mapping[str, Stratum], *, least: int, kept: int) -> dict[str, Stratum]:
    """Merge strata of fewer than ``least`` patients with other small ones, column by column from the last.

    ``strata``: by patient. Values of the first ``kept`` columns are never merged.
    """
    found = dict(strata)
    width = max(map(len, found.values()), default=0)
    for column in reversed(range(kept, width)):
        counts = Counter(found.values())
        found = {
            patient: (*s[:column], MERGED, *s[column + 1 :]) if counts[s] < least else s for patient, s in found.items()
        }
    return found


@dataclass
class Rotation:
    """Repeatedly takes a share of the patients, so that over all calls every patient is taken about equally often.

    Of each stratum, the patients that were taken least often are taken first, and none more than ``limit`` times.
    Where the share of a stratum is not a whole number of patients, the remainder is carried over to the next calls.
    """

    share: float
    limit: int = 1
    times: Counter[str] = field(default_factory=Counter)
    remaining: defaultdict[Stratum, float] = field(default_factory=lambda: defaultdict(float))

    def take(self, strata: Mapping[str, Stratum], order: Mapping[str, str]) -> set[str]:
        """Choose patients among those of ``strata``; ``order`` decides between equals. At least one patient is left."""
        if not self.share or len(strata) < 2:
            return set()
        members: dict[Stratum, list[str]] = defaultdict(list)
        for patient in sorted(strata, key=lambda p: (self.times[p], order[p])):
            members[strata[patient]].append(patient)
        for stratum, patients in members.items():
            self.remaining[stratum] += self.share * len(patients)
        total = min(max(1, round(self.share * len(strata))), len(strata) - 1)
        members = {s: [p for p in patients if self.times[p] < self.limit] for s, patients in members.items()}
        groups = [
            _Group(s, self.remaining[s], len(patients), order[patients[0]])
            for s, patients in members.items()
            if patients
        ]
        total = min(total, sum(group.size for group in groups))
        taken = set()
        for stratum, count in _apportion(total, groups, column=0).items():
            self.remaining[stratum] -= count
            taken.update(members[stratum][:count])
        self.times.update(taken)
        return taken


@dataclass(frozen=True)
class _Group:
    """One stratum or several: share of patients still to take, patients available, and a key to break ties."""

    stratum: Stratum
    remaining: float
    size: int
    key: str


def _apportion(total: int, groups: Iterable[_Group], *, column: int) -> dict[Stratum, int]:
    """Distribute ``total`` patients over strata, each to the one with the largest remaining share; columns in order."""
    by_value: dict[str, list[_Group]] = defaultdict(list)
    listed = list(groups)
    if len(listed) == 1:
        return {listed[0].stratum: total}
    for group in listed:
        by_value[group.stratum[column]].append(group)
    room = {value: sum(g.size for g in parts) for value, parts in by_value.items()}
    queue = [(-sum(g.remaining for g in parts), min(g.key for g in parts), value) for value, parts in by_value.items()]
    heapq.heapify(queue)
    counts: Counter[str] = Counter()
    for _ in range(total):
        minus_owed, key, value = heapq.heappop(queue)
        counts[value] += 1
        if counts[value] < room[value]:
            heapq.heappush(queue, (minus_owed + 1, key, value))
    found: dict[Stratum, int] = {}
    for value, parts in by_value.items():
        found |= _apportion(counts[value], parts, column=column + 1)
    return found
