"""Notes on a plan: likely mistakes are reported before the run starts, and do not stop it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from histomake.cohort.sheet import Slide
from histomake.config import parse_config
from histomake.planning.notes import NAMED, listed, notes
from histomake.planning.plan import make_plan


@pytest.fixture
def noted():
    """Notes on the plan of one task, from slides."""

    def make(slides, *, split=None, kind="classification", predict=None, model=None, **sections):
        target = {"source": "sheet", "column": "grade", "classes": ["low", "high"]}
        task = {"kind": kind, "grid": "x20", "target": target, "split": split or {}, "predict": predict or {}}
        task["model"] = model or {"pretrained": True}
        config = parse_config({"tasks": {"t": task}, **sections})
        return notes(make_plan(config, {s.slide_id: s for s in slides}))

    return make


def graded(site=lambda number: "north", patients=20):
    return [
        Slide(f"s{i}", "x", f"p{i:02}", site=site(i), labels={"grade": ("low", "high")[i % 2]}) for i in range(patients)
    ]


def test_a_cohort_that_can_be_balanced_needs_no_note(noted):
    assert noted(graded(), split={"stratify": ["site"]}) == []


@pytest.mark.parametrize("other", ["p-3", "P3", "p 003", "p_03"])
def test_patient_ids_that_may_be_one_patient_are_noted(noted, other):
    slides = [replace(s, patient_id={"p03": "p3", "p04": other}.get(s.patient_id, s.patient_id)) for s in graded()]
    (note,) = noted(slides)
    assert note.startswith("patient_ids that may be one patient: ")
    assert other in note


def test_patient_ids_of_the_same_numbers_in_other_places_are_not_noted(noted):
    names = {"p03": "p1-12", "p04": "p11-2"}
    assert noted([replace(s, patient_id=names.get(s.patient_id, s.patient_id)) for s in graded()]) == []


def test_values_of_a_stratum_that_differ_in_case_are_noted(noted):
    found = noted(graded(lambda i: ("North", "north", "south ")[i % 2]), split={"stratify": ["site"]})
    assert found == ["values of site that may be one: North, north"]


def test_strata_too_small_to_balance_are_noted(noted):
    (note,) = noted(graded(lambda i: "south" if i < 2 else "north"), split={"stratify": ["site"]})
    assert note.startswith("task t: strata of fewer than 3 patients")
    assert note.endswith("balanced together: high / south (1), low / south (1)")


def mixed():
    """Patients with two slides each; the two test patients have slides of both classes."""
    roles = ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    return [
        Slide(f"s{i:02}", "x", f"p{i // 2}", split=role, labels={"grade": ("low", "high")[i % 2]})
        for i, role in enumerate(roles)
    ]


def test_test_patients_with_slides_of_several_classes_are_noted(noted):
    (note,) = noted(mixed())
    assert note == (
        "task t: 2 test patient(s) have slides of several classes; patients are not evaluated, unless "
        "predict.patient_truth says which class they have: p4 (high, low), p5 (high, low)"
    )


def test_the_note_says_which_rule_decides(noted):
    (note,) = noted(mixed(), predict={"patient_truth": "majority"})
    assert "most slides decide" in note


def test_patients_with_slides_of_one_class_or_of_other_roles_are_not_noted(noted):
    slides = [replace(s, labels={"grade": "low"}) if s.split == "test" else s for s in mixed()]
    assert noted(slides) == []


def test_of_many_items_the_first_are_named_and_the_others_counted():
    assert listed([str(i) for i in range(NAMED + 2)]).endswith("7 and 2 more")


def test_training_from_random_weights_is_noted(noted):
    (note,) = noted(graded(), model={"pretrained": False})
    assert note.startswith("training starts from random weights: t; ")


def test_a_folder_without_weights_is_noted_with_the_command_that_writes_them(noted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = {"name": "tf_efficientnet_lite0", "pretrained": "encoders/efficientnet-lite0"}
    (note,) = noted(graded(), model=model)
    assert "`histomake encoder encoders/efficientnet-lite0`" in note
    folder = tmp_path / "encoders" / "efficientnet-lite0"
    folder.mkdir(parents=True)
    for name in ("model.json", "model.safetensors"):
        (folder / name).touch()
    assert noted(graded(), model=model) == []


def test_slides_without_a_label_are_noted_unless_the_sheet_says_that_they_are_predicted(noted):
    slides = graded()
    unlabelled = [Slide("x1", "x", "q1"), Slide("x2", "x", "q2", split="predict")]
    (note,) = noted([*slides, *unlabelled])
    assert note == "task t: 1 slide(s) without a value of grade are predicted, and neither trained on nor tested: x1"
