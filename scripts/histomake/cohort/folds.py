"""Patient-level folds: assignment of training, validation and test roles.

Roles depend only on the sheet and the seed, so they are known before any job runs. Patients are ordered by a keyed
hash instead of a shuffle: in a single split, adding one patient changes the role of at most one patient per stratum.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from histomake.base.errors import ConfigError
from histomake.cohort.leakage import JUDGED, Assignment
from histomake.cohort.sheet import Slide, classes_of
from histomake.cohort.strata import MERGED, Rotation, Stratum, merge_small
from histomake.config import Split, Task
from histomake.config.kinds import ACCEPTED

LEAST = 3
"""Patients that a stratum needs to have one in each role."""

Classes = Callable[[Slide], list[str]]
"""The classes of a slide that a task learns."""


def assign_task(slides: Iterable[Slide], task: Task, *, seed: int, name: str) -> list[Assignment]:
    """Assign roles for a task. Slides whose label for the task is empty in the sheet can only be predicted.

    Classes in the sheet, and events of survival, are always balanced, before the columns of ``split.stratify``. Raises
    ConfigError if a fold nevertheless has no training patient of a class.
    """
    rows, split, learned = _of_task(slides, task)
    assignments = assign(rows, split, seed=seed, task=name, learned=learned)
    _require_learnable(assignments, rows, learned, task, name=name)
    return assignments


def _require_learnable(
    assignments: list[Assignment], rows: list[Slide], learned: Classes | None, task: Task, *, name: str
) -> None:
    """Raise ConfigError if a fold has no training patient of a class that the sheet gives."""
    if learned is None:
        return
    missing = _unlearnable(assignments, {s.slide_id: learned(s) for s in rows}, task.target.classes)
    if missing:
        raise ConfigError(
            f"task {name}: no training patient for these classes:\n"
            + "\n".join(missing)
            + "\nAdd patients of the class, remove it from target.classes, lower split.folds, or assign roles in the "
            "split column of the sheet"
        )


def assign_like(slides: Iterable[Slide], task: Task, roles: Iterable[Assignment], *, name: str) -> list[Assignment]:
    """Assign the roles that patients have in another task, whose assignments are ``roles``.

    Slides without a target of this task, and of patients without a role in the other one, can only be predicted.
    Raises ConfigError if a fold has no patient of a role, or no training patient of a class.
    """
    rows, _, learned = _of_task(slides, task)
    folds: dict[int, dict[str, str]] = defaultdict(dict)
    for a in roles:
        # A patient may have slides to predict besides those with a role.
        if a.role in JUDGED:
            folds[a.fold][a.patient_id] = a.role
    found = [
        Assignment(fold, s.slide_id, s.patient_id, _role_like(s, by_patient))
        for fold, by_patient in sorted(folds.items())
        for s in sorted(rows, key=lambda s: s.slide_id)
    ]
    if not found:
        return [Assignment(fold, s.slide_id, s.patient_id, "predict") for fold in range(task.split.folds) for s in rows]
    for fold in sorted(folds):
        if missing := set(JUDGED) - {a.role for a in found if a.fold == fold}:
            raise ConfigError(
                f"task {name}, fold {fold}: with the roles of task {task.split.like}, no patient with a target is left "
                f"for {', '.join(sorted(missing))}; add patients, or remove tasks.{name}.split.like"
            )
    _require_learnable(found, rows, learned, task, name=name)
    return found


def _role_like(slide: Slide, by_patient: Mapping[str, str]) -> str:
    return "predict" if slide.split == "predict" else by_patient.get(slide.patient_id, "predict")


def _of_task(slides: Iterable[Slide], task: Task) -> tuple[list[Slide], Split, Classes | None]:
    """Slides, split and classes by which a task is divided. There are no classes if the sheet does not give them."""
    column, event = task.target.column, task.target.event
    needed = task.target.sheet_columns
    rows = [replace(s, split="predict") if needed and not any(map(s.value, needed)) else s for s in slides]
    if event is not None:
        # A role without an event can neither be learned from nor be measured.
        others = [c for c in task.split.stratify if c != event]
        return rows, task.split.model_copy(update={"stratify": [event, *others]}), None
    if column is None or ACCEPTED[task.kind].least_classes is None:
        return rows, task.split, None
    others = [c for c in task.split.stratify if c != column]
    return rows, task.split.model_copy(update={"stratify": others}), lambda slide: classes_of(slide, task)


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


def assign(
    slides: Iterable[Slide], split: Split, *, seed: int, task: str, learned: Classes | None = None
) -> list[Assignment]:
    """Assign a role to every slide in every fold.

    Roles in the sheet are kept. The other patients are divided at random (seeded), stratified by the classes
    ``learned`` and then by the columns of ``split.stratify``. In cross-validation each patient is tested once, and
    validation patients rotate: over all folds, each patient is validated about equally often. If the sheet gives only
    training and test patients, validation patients are taken from the training patients. Raises ConfigError if a
    patient would have two roles or there are too few patients.
    """
    rows = list(slides)
    patients = _of_patients(rows)
    fixed = _fixed_roles(patients, task)
    strata = _strata(patients, split, learned)
    order = {p: _keyed(seed, task, p) for p in strata}
    # A patient is tested in one fold and validated in at most all but one of the others, so that it trains in one.
    validated = Rotation(split.val, limit=max(1, split.folds - 2))
    roles = []
    for fold in range(split.folds):
        # The first fold has the order of a single split.
        turn = {p: _keyed(seed, task, p, fold) for p in strata} if fold else order
        roles.append(_fold_roles(split, fold, strata, fixed, validated, order=order, turn=turn, task=task))
    return [
        Assignment(fold, s.slide_id, s.patient_id, "predict" if s.split == "predict" else role[s.patient_id])
        for fold, role in enumerate(roles)
        for s in sorted(rows, key=lambda s: s.slide_id)
    ]


def merged_strata(slides: Iterable[Slide], split: Split, *, learned: Classes | None = None) -> dict[Stratum, int]:
    """Strata with too few patients to be balanced, which are merged with one another, and their numbers of patients."""
    patients = _of_patients(slides)
    divided = [p for p, own in patients.items() if not any(slide.split for slide in own)]
    merged = _strata(patients, split, learned)
    small = Counter(_stratum(patients[p], split, learned) for p in divided if MERGED in merged[p])
    return dict(sorted(small.items()))


def merged_strata_of_task(slides: Iterable[Slide], task: Task) -> dict[Stratum, int]:
    """As `merged_strata`, for the slides and the classes of a task."""
    rows, split, learned = _of_task(slides, task)
    return merged_strata(rows, split, learned=learned)


def _of_patients(slides: Iterable[Slide]) -> dict[str, list[Slide]]:
    """Slides with a role, by patient; patients sorted."""
    patients: dict[str, list[Slide]] = defaultdict(list)
    for slide in slides:
        if slide.split != "predict":
            patients[slide.patient_id].append(slide)
    return dict(sorted(patients.items()))


def _strata(patients: Mapping[str, list[Slide]], split: Split, learned: Classes | None) -> dict[str, Stratum]:
    """The stratum of each patient; small ones are merged, except over classes."""
    strata = {p: _stratum(slides, split, learned) for p, slides in patients.items()}
    return merge_small(strata, least=max(LEAST, split.folds), kept=0 if learned is None else 1)


def _stratum(slides: list[Slide], split: Split, learned: Classes | None) -> Stratum:
    """The stratum of a patient with these slides: all classes, then for each column all values."""
    values = [{s.value(c) or "" for s in slides} for c in split.stratify]
    if learned is not None:
        values.insert(0, {name for s in slides for name in learned(s)})
    return tuple("+".join(sorted(found)) for found in values)


def _keyed(*parts: object) -> str:
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()


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


def _folds(folds: int, strata: Mapping[str, Stratum], order: Mapping[str, str]) -> dict[str, int]:
    """Distribute patients to folds, stratum by stratum, so that each fold gets its share of every stratum."""
    dealt = sorted(strata, key=lambda p: (strata[p], order[p]))
    return {patient: i % folds for i, patient in enumerate(dealt)}


def _fold_roles(
    split: Split,
    fold: int,
    everyone: Mapping[str, Stratum],
    fixed: Mapping[str, str],
    validated: Rotation,
    *,
    order: Mapping[str, str],
    turn: Mapping[str, str],
    task: str,
) -> dict[str, str]:
    """Return the role of every patient in one fold.

    Test patients are dealt to the folds by ``order``. Validation patients are chosen by ``turn``, which differs from
    fold to fold, among those that earlier folds ``validated`` least often.
    """
    strata = {p: s for p, s in everyone.items() if p not in fixed}
    if split.folds == 1:
        fixed_test = any(role == "test" for role in fixed.values())
        test = set() if fixed_test else Rotation(split.test).take(strata, order)
    else:
        test = {p for p, f in _folds(split.folds, strata, order).items() if f == fold}
    rest = {p: s for p, s in strata.items() if p not in test}
    fixed_val = any(role == "val" for role in fixed.values())
    val = set() if fixed_val else validated.take(rest, turn)
    roles = dict(fixed)
    roles.update({p: "test" if p in test else "val" if p in val else "train" for p in strata})
    if not fixed_val and not val:
        trained = {p: everyone[p] for p, role in roles.items() if role == "train"}
        roles.update(dict.fromkeys(validated.take(trained, turn), "val"))
    missing = {"train", "val", "test"} - set(roles.values())
    if roles and missing:
        raise ConfigError(
            f"task {task}, fold {fold}: no patient left for {', '.join(sorted(missing))} "
            f"({len(everyone)} patients in the sheet); add patients, "
            + (f"lower tasks.{task}.split.folds, " if split.folds > 1 else "")
            + "or assign roles in the split column of the sheet"
        )
    return roles
