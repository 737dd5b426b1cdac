"""Tests of fold assignment: one role per patient, reproducible folds, preserved strata."""

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from histomake.base.errors import ConfigError
from histomake.cohort.folds import assign, assign_like, assign_task, merged_strata_of_task
from histomake.cohort.leakage import leaks
from histomake.cohort.sheet import Slide
from histomake.config import Split, Task
from hypothesis import given
from hypothesis import strategies as st


def cohort(slides_per_patient, labels=None):
    return [
        Slide(f"p{p}s{s}", f"{p}-{s}.svs", f"p{p}", labels={"grade": labels[p]} if labels else {})
        for p, n in enumerate(slides_per_patient)
        for s in range(n)
    ]


def roles_of_patients(assignments):
    roles = defaultdict(set)
    for a in assignments:
        roles[a.fold, a.patient_id].add(a.role)
    return roles


@given(
    st.lists(st.integers(1, 4), min_size=12, max_size=60),
    st.integers(1, 5),
    st.integers(0, 5),
    st.floats(0.1, 0.5),
)
def test_a_patient_has_one_role_in_each_fold(counts, folds, seed, test):
    found = assign(cohort(counts), Split(folds=folds, test=test), seed=seed, task="t")
    assert all(len(roles) == 1 for roles in roles_of_patients(found).values())
    assert len(found) == folds * sum(counts)
    assert leaks(found, {}) == []


@given(st.lists(st.integers(1, 3), min_size=10, max_size=40), st.integers(2, 5))
def test_cross_validation_tests_every_slide_once(counts, folds):
    found = assign(cohort(counts), Split(folds=folds), seed=0, task="t")
    tested = [a.slide_id for a in found if a.role == "test"]
    assert sorted(tested) == sorted(s.slide_id for s in cohort(counts))


@given(
    st.lists(st.sampled_from(["low", "high", "rare"]), min_size=12, max_size=60),
    st.integers(3, 8),
    st.floats(0.05, 0.4),
    st.integers(0, 5),
)
def test_over_all_folds_every_patient_trains_and_is_validated_about_equally_often(labels, folds, val, seed):
    slides = cohort([1] * len(labels), labels)
    found = assign(slides, Split(folds=folds, val=val, stratify=["grade"]), seed=seed, task="t")
    counts = {s.patient_id: Counter() for s in slides}
    for a in found:
        counts[a.patient_id][a.role] += 1
    assert all(of_patient["train"] for of_patient in counts.values())
    validated = [of_patient["val"] for of_patient in counts.values()]
    assert max(validated) - min(validated) <= 2


def test_folds_differ_in_their_validation_patients():
    """On a public cohort of 16 patients, the same few were validated in every fold and trained no model."""
    found = assign(cohort([1] * 16), Split(folds=5), seed=0, task="t")
    by_fold = [{a.patient_id for a in found if (a.fold, a.role) == (fold, "val")} for fold in range(5)]
    assert Counter(p for patients in by_fold for p in patients).most_common(1)[0][1] == 1
    assert len(set(map(frozenset, by_fold))) == 5


def test_validation_patients_rotate_among_the_training_patients_of_the_sheet():
    slides = [replace(s, split="train" if int(s.patient_id[1:]) < 12 else "test") for s in cohort([1] * 16)]
    found = assign(slides, Split(folds=4, val=0.25), seed=0, task="t")
    validated = Counter(a.patient_id for a in found if a.role == "val")
    assert set(validated.values()) == {1}
    assert len(validated) == 12


@given(st.lists(st.sampled_from(["low", "high"]), min_size=20, max_size=80), st.integers(0, 9))
def test_the_test_share_of_each_stratum_is_correct_within_one_patient(labels, seed):
    slides = cohort([1] * len(labels), labels)
    found = assign(slides, Split(test=0.3, stratify=["grade"]), seed=seed, task="t")
    for grade in set(labels):
        members = {s.patient_id for s in slides if s.labels["grade"] == grade}
        tested = sum(a.role == "test" and a.patient_id in members for a in found)
        assert abs(tested - 0.3 * len(members)) <= 1


def test_the_same_seed_gives_the_same_roles_for_any_order_of_rows():
    slides = cohort([2] * 20)
    one = assign(slides, Split(), seed=3, task="t")
    assert one == assign(slides[::-1], Split(), seed=3, task="t")
    assert one != assign(slides, Split(), seed=4, task="t")


def test_a_new_patient_changes_the_roles_of_at_most_a_few_others():
    before = {a.patient_id: a.role for a in assign(cohort([1] * 100), Split(), seed=0, task="t")}
    after = {a.patient_id: a.role for a in assign(cohort([1] * 101), Split(), seed=0, task="t")}
    assert sum(after[p] != role for p, role in before.items()) <= 3


def test_a_slide_to_predict_does_not_change_other_roles():
    slides = cohort([1] * 20)
    before = assign(slides, Split(), seed=0, task="t")
    new = Slide("new", "new.svs", "p999", split="predict")
    after = assign([*slides, new], Split(), seed=0, task="t")
    assert [a for a in after if a.slide_id != "new"] == before
    assert [a.role for a in after if a.slide_id == "new"] == ["predict"]


def test_roles_in_the_sheet_are_kept():
    slides = [Slide(f"s{i}", "x", f"p{i}", split=role) for i, role in enumerate(["train", "val", "test", "train"])]
    assert [a.role for a in assign(slides, Split(), seed=0, task="t")] == ["train", "val", "test", "train"]


def test_validation_patients_are_taken_from_the_training_patients_if_the_sheet_gives_none():
    given = ["train"] * 10 + ["test"] * 4
    slides = [Slide(f"s{i:02}", "x", f"p{i}", split=role) for i, role in enumerate(given)]
    found = [a.role for a in assign(slides, Split(val=0.2), seed=0, task="t")]
    assert found[10:] == ["test"] * 4
    assert sorted(found[:10]) == ["train"] * 8 + ["val"] * 2


def test_a_patient_with_two_roles_in_the_sheet_is_refused():
    slides = [Slide("a", "x", "p", split="train"), Slide("b", "x", "p", split="test")]
    with pytest.raises(ConfigError, match="patient p: a in train, b in test"):
        assign(slides, Split(), seed=0, task="t")


def test_too_few_patients_is_an_error_with_a_remedy():
    with pytest.raises(ConfigError, match="no patient left for"):
        assign(cohort([5, 5]), Split(), seed=0, task="t")


def graded(grades: list[str], *, slides: int = 1) -> list[Slide]:
    return [
        Slide(f"p{i}s{n}", "x", f"p{i}", labels={"grade": grade})
        for i, grade in enumerate(grades)
        for n in range(slides)
    ]


def grading(**split) -> Task:
    return Task(grid="x20", target={"source": "sheet", "column": "grade", "classes": ["low", "high"]}, split=split)


@given(st.integers(3, 6), st.integers(2, 3), st.integers(0, 20))
def test_every_fold_trains_and_tests_on_a_class_of_few_patients_with_one_slide(rare, folds, seed):
    # One class has many patients with many slides, the other has a few patients with one slide each.
    slides = [
        *graded(["low"] * 30, slides=3),
        *(
            replace(s, patient_id=f"r{s.patient_id}", slide_id=f"r{s.slide_id}")
            for s in graded(["high"] * max(rare, folds))
        ),
    ]
    found = assign_task(slides, grading(folds=folds), seed=seed, name="t")
    grade = {s.slide_id: s.labels["grade"] for s in slides}
    for fold in range(folds):
        for role in ("train", "test"):
            assert {grade[a.slide_id] for a in found if (a.fold, a.role) == (fold, role)} == {"low", "high"}


def test_a_class_without_training_patient_is_named_with_its_patients():
    slides = [replace(s, split="test") if s.labels["grade"] == "high" else s for s in graded(["low"] * 10 + ["high"])]
    with pytest.raises(ConfigError, match=r"fold 0: high; its patients: p10 \(test\)"):
        assign_task(slides, grading(), seed=0, name="t")
    with pytest.raises(ConfigError, match=r"fold 0: high; its patients: none"):
        assign_task(graded(["low"] * 10), grading(), seed=0, name="t")


def test_classes_are_balanced_before_small_strata():
    """One site per patient: balancing over sites alone would leave the classes to chance."""
    slides = [replace(s, site=f"site{i}") for i, s in enumerate(graded(["low"] * 20 + ["high"] * 20))]
    for seed in range(5):
        found = assign_task(slides, grading(test=0.25, val=0.2, stratify=["site"]), seed=seed, name="t")
        grade = {s.slide_id: s.labels["grade"] for s in slides}
        for role, count in (("test", 5), ("val", 3)):
            counts = Counter(grade[a.slide_id] for a in found if a.role == role)
            assert counts == {"low": count, "high": count}


def test_classes_are_balanced_before_sites_of_unequal_size():
    sites = ["a"] * 5 + ["b"] * 5 + ["c"] * 5
    slides = [replace(s, site=sites[i % 15]) for i, s in enumerate(graded(["low"] * 15 + ["high"] * 15))]
    for seed in range(10):
        found = assign_task(slides, grading(test=0.25, stratify=["site"]), seed=seed, name="t")
        tested = Counter(
            s.labels["grade"]
            for s, a in zip(sorted(slides, key=lambda s: s.slide_id), found, strict=True)
            if a.role == "test"
        )
        assert abs(tested["low"] - tested["high"]) <= 1


def test_strata_too_small_to_balance_are_merged_and_named():
    sites = ["north"] * 9 + ["x", "y", "z"]
    slides = [replace(s, site=site) for s, site in zip(graded(["low"] * 12), sites, strict=True)]
    slides += [
        replace(s, slide_id=f"h{s.slide_id}", patient_id=f"h{s.patient_id}", site="north") for s in graded(["high"] * 6)
    ]
    task = grading(stratify=["site"])
    assert merged_strata_of_task(slides, task) == {("low", "x"): 1, ("low", "y"): 1, ("low", "z"): 1}
    found = assign_task(slides, task, seed=0, name="t")
    tested = [s.site for s in slides for a in found if a.slide_id == s.slide_id and a.role == "test"]
    assert len(set(tested) & {"x", "y", "z"}) == 1


def test_strata_are_not_merged_over_classes():
    assert merged_strata_of_task(graded(["low"] * 9 + ["high"]), grading()) == {}


def test_several_classes_in_any_order_are_one_stratum():
    target = {"source": "sheet", "column": "grade", "classes": ["low", "high"]}
    task = Task(grid="x20", kind="multi_label", target=target, split=Split(test=0.5))
    slides = graded(["low,high"] * 4 + ["high, low"] * 4 + ["low"] * 8)
    for seed in range(5):
        found = assign_task(slides, task, seed=seed, name="t")
        both = {s.slide_id for s in slides if "," in s.labels["grade"]}
        assert sum(a.slide_id in both for a in found if a.role == "test") == 4


def like(**target):
    return Task(grid="g", target=target or {"classes": ["a", "b"]}, split={"like": "first"})


def test_patients_have_the_roles_of_the_task_that_split_like_names():
    slides = cohort([2] * 12, ["low", "high"] * 6)
    first = assign_task(slides, grading(folds=3), seed=0, name="first")
    assert assign_like(slides, like(), first, name="second") == first


def test_a_slide_without_a_target_of_its_own_is_predicted_and_others_of_its_patient_keep_their_role():
    slides = cohort([2] * 12, ["low", "high"] * 6)
    first = assign_task(slides, grading(), seed=0, name="first")
    stage = {"source": "sheet", "column": "stage", "classes": ["early", "late"]}
    staged = [
        replace(s, labels={"stage": ("early", "late")[i % 4 // 2]} if i % 2 else {}) for i, s in enumerate(slides)
    ]
    roles = {a.slide_id: a.role for a in first}
    for a in assign_like(staged, like(**stage), first, name="second"):
        assert a.role == ("predict" if a.slide_id.endswith("s0") else roles[a.slide_id])


def test_a_patient_without_a_role_in_the_other_task_is_predicted():
    slides = cohort([1] * 12, ["low", "high"] * 6)
    first = assign_task(slides[:10], grading(), seed=0, name="first")
    found = {a.slide_id: a.role for a in assign_like(slides, like(), first, name="second")}
    assert (found["p10s0"], found["p11s0"]) == ("predict", "predict")


def test_roles_of_another_task_that_leave_no_patient_to_validate_with_are_refused():
    slides = cohort([1] * 12, ["low", "high"] * 6)
    first = assign_task(slides, grading(), seed=0, name="first")
    validated = {a.slide_id for a in first if a.role == "val"}
    stage = {"source": "sheet", "column": "grade", "classes": ["low", "high"]}
    others = [replace(s, labels={}) if s.slide_id in validated else s for s in slides]
    with pytest.raises(ConfigError, match=r"with the roles of task first, no patient with a target is left for val"):
        assign_like(others, like(**stage), first, name="second")
