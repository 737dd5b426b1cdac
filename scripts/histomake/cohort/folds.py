"""Patient-level folds: assignment of training, validation and test roles.

Roles depend only on the sheet and the seed, so they are known before any job runs. Patients are ordered by a keyed
hash instead of a shuffle: adding one patient changes the role of at most one patient per stratum.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from histomake.base.errors import ConfigError
from histomake.cohort.leakage import Assignment
from histomake.cohort.sheet import Slide, classes_of
from histomake.config import Split, Task
from histomake.config.kinds import ACCEPTED


def assign_task(slides: Iterable[Slide], task: Task, *, seed: int, name: str) -> list[Assignment]:
    """Assign roles for a task. Slides whose label for the task is empty in the sheet can only be predicted.

    A class in the sheet is always used for stratification. Raises ConfigError if a fold nevertheless has no training
    patient of a class.
    """
    column = task.target.column
    rows = [replace(s, split="predict") if column and s.value(column) is None else s for s in slides]
    if column is None or ACCEPTED[task.kind].least_classes is None:
        return assign(rows, task.split, seed=seed, task=name)
    columns = [column, *(c for c in task.split.stratify if c != column)]
    assignments = assign(rows, task.split.model_copy(update={"stratify": columns}), seed=seed, task=name)
    missing = _unlearnable(assignments, {s.slide_id: classes_of(s, task) for s in rows}, task.target.classes)
    if missing:
        raise ConfigError(
            f"task {name}: no training patient for these classes:\n"
            + "\n".join(missing)
            + "\nAdd patients of the class, remove it from target.classes, lower split.folds, or assign roles in the "
            "split column of the sheet"
        )
    return assignments


def _unlearnable(assignments: list[Assignment], classes: Mapping[str, list[str]], wanted: list[str]) -> list[str]:
    """Return the folds and classes without a training slide, with the patients of the class."""
    if all(a.role == "predict" for a in assignments):
        return []
    owners: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
    for a in assignments:
        for name in classes[a.slide_id] if a.role != "predict" else ():
            owners[a.fold, name][a.patient_id] = a.role
    problems = []
    for fold in sorted({a.fold for a in assignments}):
        for name in wanted:
            roles = owners[fold, name]
            if "train" not in roles.values():
                people = ", ".join(f"{patient} ({role})" for patient, role in sorted(roles.items())[:5])
                problems.append(f"  fold {fold}: {name}; its patients: {people or 'none'}")
    return problems


def assign_unfitted(slides: Iterable[Slide], *, folds: int) -> list[Assignment]:
    """Assign roles for a model that is already trained: slides with split "test" are tested, all others predicted."""
    rows = sorted(slides, key=lambda s: s.slide_id)
    return [
        Assignment(fold, s.slide_id, s.patient_id, "test" if s.split == "test" else "predict")
        for fold in range(folds)
        for s in rows
    ]


def assign(slides: Iterable[Slide], split: Split, *, seed: int, task: str) -> list[Assignment]:
    """Assign a role to every slide in every fold.

    Roles in the sheet are kept. The other patients are divided at random (seeded), stratified by the columns of
    ``split.stratify``. If the sheet gives only training and test patients, validation patients are taken from the
    training patients. Raises ConfigError if a patient would have two roles or there are too few patients.
    """
    rows = list(slides)
    patients: dict[str, list[Slide]] = defaultdict(list)
    for slide in rows:
        if slide.split != "predict":
            patients[slide.patient_id].append(slide)
    fixed = _fixed_roles(patients, task)
    strata = {p: _stratum(slides, split.stratify) for p, slides in sorted(patients.items())}
    order = {p: _keyed(seed, task, p) for p in strata}
    roles = [_fold_roles(split, fold, strata, order, fixed, task) for fold in range(split.folds)]
    return [
        Assignment(fold, s.slide_id, s.patient_id, "predict" if s.split == "predict" else role[s.patient_id])
        for fold, role in enumerate(roles)
        for s in sorted(rows, key=lambda s: s.slide_id)
    ]


def _keyed(*parts: object) -> str:
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def _stratum(slides: list[Slide], columns: list[str]) -> tuple[str, ...]:
    """Return a patient's stratum: for each column, all values of the patient's slides."""
    return tuple("+".join(sorted({s.value(c) or "" for s in slides})) for c in columns)


def _fixed_roles(patients: Mapping[str, list[Slide]], task: str) -> dict[str, str]:
    """Return the roles from the sheet; refuse patients whose slides have different roles."""
    fixed, leaks = {}, []
    for patient, slides in patients.items():
        given = {s.split for s in slides if s.split is not None}
        if len(given) > 1:
            leaks.append(
                f"  patient {patient}: {', '.join(sorted(f'{s.slide_id} in {s.split}' for s in slides if s.split))}"
            )
        elif given:
            fixed[patient] = given.pop()
    if leaks:
        raise ConfigError(f"task {task}: patients with two roles in the split column:\n" + "\n".join(leaks))
    return fixed


def _take(share: float, strata: Mapping[str, tuple[str, ...]], order: Mapping[str, str]) -> set[str]:
    """Choose ``share`` of the patients, with the same share in each stratum as far as whole patients allow."""
    if not share or len(strata) < 2:
        return set()
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for patient in sorted(strata, key=order.__getitem__):
        groups[strata[patient]].append(patient)
    total = min(max(1, round(share * len(strata))), len(strata) - 1)
    counts = {g: int(share * len(members)) for g, members in groups.items()}
    by_remainder = sorted(groups, key=lambda g: (counts[g] - share * len(groups[g]), order[groups[g][0]]))
    for group in by_remainder * 2:
        if sum(counts.values()) >= total:
            break
        counts[group] += counts[group] < len(groups[group])
    return {p for g, members in groups.items() for p in members[: counts[g]]}


def _folds(folds: int, strata: Mapping[str, tuple[str, ...]], order: Mapping[str, str]) -> dict[str, int]:
    """Distribute patients to folds, stratum by stratum, so that each fold gets its share of every stratum."""
    dealt = sorted(strata, key=lambda p: (strata[p], order[p]))
    return {patient: i % folds for i, patient in enumerate(dealt)}


def _fold_roles(
    split: Split,
    fold: int,
    strata: Mapping[str, tuple[str, ...]],
    order: Mapping[str, str],
    fixed: Mapping[str, str],
    task: str,
) -> dict[str, str]:
    """Return the role of every patient in one fold."""
    everyone, strata = strata, {p: s for p, s in strata.items() if p not in fixed}
    if split.folds == 1:
        fixed_test = any(role == "test" for role in fixed.values())
        test = set() if fixed_test else _take(split.test, strata, order)
    else:
        test = {p for p, f in _folds(split.folds, strata, order).items() if f == fold}
    rest = {p: s for p, s in strata.items() if p not in test}
    fixed_val = any(role == "val" for role in fixed.values())
    val = set() if fixed_val else _take(split.val, rest, order)
    roles = dict(fixed)
    roles.update({p: "test" if p in test else "val" if p in val else "train" for p in strata})
    if not fixed_val and not val:
        trained = {p: everyone[p] for p, role in roles.items() if role == "train"}
        roles.update(dict.fromkeys(_take(split.val, trained, order), "val"))
    missing = {"train", "val", "test"} - set(roles.values())
    if roles and missing:
        raise ConfigError(
            f"task {task}, fold {fold}: no patient left for {', '.join(sorted(missing))} "
            f"({len(everyone)} patients in the sheet); add patients, "
            + (f"lower tasks.{task}.split.folds, " if split.folds > 1 else "")
            + "or assign roles in the split column of the sheet"
        )
    return roles
