"""The slides of a generator: patients with one role, labels, and what is refused."""

from __future__ import annotations

import pytest
from histomake.base.errors import ConfigError
from histomake.cohort.generator_slides import assign_roles
from histomake.cohort.sheet import Slide
from histomake.config import Generator
from hypothesis import given
from hypothesis import strategies as st


def slide(patient: str, stain: str = "PAS", split: str | None = None, number: int = 0) -> Slide:
    return Slide(f"{patient}-{stain}-{number}", "a.svs", patient, split=split, groups={"stain": stain})


def assigned(rows, **changes):
    return assign_roles(rows, Generator.model_validate({"field_um": 512} | changes), seed=0, name="renal")


@given(st.integers(2, 12), st.integers(1, 3), st.floats(0.05, 0.95))
def test_a_patient_has_one_role_and_both_roles_have_slides(patients, each, share):
    found = assigned([slide(f"p{n}", number=k) for n in range(patients) for k in range(each)], test=share)
    roles = {}
    for member in found:
        assert roles.setdefault(member.patient_id, member.role) == member.role
    assert set(roles.values()) == {"train", "test"}


def test_roles_of_the_sheet_are_kept_and_slides_to_predict_are_left_out():
    rows = [slide("a", split="train"), slide("b", split="test"), slide("c", split="val"), slide("d", split="predict")]
    assert {m.patient_id: m.role for m in assigned(rows)} == {"a": "train", "b": "test", "c": "train"}


def test_only_chosen_slides_are_learned_from():
    rows = [slide(p, stain) for p in "abc" for stain in ("HE", "PAS")]
    assert all("PAS" in m.slide_id for m in assigned(rows, slides={"column": "stain", "value": "PAS"}))


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([slide("a")], {}, r"generators.renal: slides of 1 patient\(s\) in the sheet; 2 are needed"),
        ([slide("a"), slide("b", "")], {"label": "stain"}, r"without a value in column 'stain': b--0"),
        ([slide("a", split="train"), slide("b", split="train")], {}, "no slide to test; assign roles"),
        ([slide("a", "HE", "train"), slide("b", "PAS", "test")], {"label": "stain"}, "only held-out slides have PAS"),
        ([slide("a"), slide("b")], {"slides": {"column": "stain", "value": "HE"}}, r"slides of 0 patient\(s\)"),
    ],
)
def test_slides_that_do_not_suffice_are_refused(rows, changes, message):
    with pytest.raises(ConfigError, match=message):
        assigned(rows, **changes)
