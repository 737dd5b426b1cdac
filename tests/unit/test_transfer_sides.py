"""The sides of a stain transfer: slides by stain, patients with one role, and what is refused."""

from __future__ import annotations

import pytest
from histomake.base.errors import ConfigError
from histomake.cohort.sheet import Slide
from histomake.cohort.side_contents import refuse_shared_slides
from histomake.cohort.sides import assign_sides
from histomake.config import StainTransfer, parse_config
from hypothesis import given
from hypothesis import strategies as st

SIDES = {"from": {"column": "stain", "value": "HE"}, "to": {"column": "stain", "value": "PAS"}, "grid": "x20"}


def slide(patient: str, stain: str, split: str | None = None) -> Slide:
    return Slide(f"{patient}-{stain}", "a.svs", patient, split=split, groups={"stain": stain})


def assigned(slides, **changes):
    return assign_sides(slides, StainTransfer.model_validate(SIDES | changes), seed=0, name="he_pas")


def test_slides_belong_to_the_side_of_their_stain_and_others_to_none():
    rows = [slide(p, stain) for p in "ab" for stain in ("HE", "PAS", "silver")]
    assert {(m.slide_id, m.side) for m in assigned(rows)} == {("a-HE", 0), ("b-HE", 0), ("a-PAS", 1), ("b-PAS", 1)}


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 4), st.floats(0.05, 0.95))
def test_a_patient_has_one_role_and_each_side_has_both(first, second, both, share):
    rows = [slide(f"a{n}", "HE") for n in range(first)] + [slide(f"b{n}", "PAS") for n in range(second)]
    rows += [slide(f"c{n}", stain) for n in range(both) for stain in ("HE", "PAS")]
    members = assigned(rows, test=share)
    roles = {}
    for member in members:
        assert roles.setdefault(member.patient_id, member.role) == member.role
    for side in (0, 1):
        assert {"train", "test"} == {m.role for m in members if m.side == side}


def test_roles_of_the_sheet_are_kept_and_val_is_learned_from():
    rows = [slide("a", "HE", "train"), slide("b", "HE", "test"), slide("c", "PAS", "val"), slide("d", "PAS", "test")]
    rows.append(slide("e", "PAS", "predict"))
    roles = {m.patient_id: m.role for m in assigned(rows)}
    assert roles == {"a": "train", "b": "test", "c": "train", "d": "test", "e": "predict"}


def test_a_new_slide_to_predict_changes_no_role():
    rows = [slide(p, stain) for p in "abcdef" for stain in ("HE", "PAS")]
    before = {m.slide_id: m.role for m in assigned(rows)}
    after = {m.slide_id: m.role for m in assigned([*rows, slide("new", "HE", "predict")])}
    assert before == {name: role for name, role in after.items() if name != "new-HE"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([slide("a", "HE"), slide("b", "HE")], "to: 'PAS' in column 'stain': no slide has this value"),
        ([slide("a", "HE"), slide("b", "HE"), slide("c", "PAS")], r"to: 'PAS' .*: slides of 1 patient\(s\); 2 are"),
        (
            [slide("a", "HE", "train"), slide("b", "HE", "train"), slide("c", "PAS"), slide("d", "PAS")],
            "from: 'HE' .*: no slide to test",
        ),
    ],
)
def test_sides_that_nothing_can_be_learned_or_measured_from_are_refused(rows, message):
    with pytest.raises(ConfigError, match=message):
        assigned(rows)


@pytest.mark.parametrize("cell", ["HE,PAS", "HE + PAS", "PAS;HE", "HE/silver"])
def test_several_stains_in_one_row_are_refused(cell):
    rows = [slide(p, stain) for p in "ab" for stain in ("HE", "PAS")] + [slide("c", cell)]
    with pytest.raises(ConfigError, match="slides with several stains in one row:\n  c-"):
        assigned(rows)


def test_the_same_slides_as_both_sides_are_refused():
    raw = {"stain_transfers": {"t": SIDES | {"to": SIDES["from"]}}}
    with pytest.raises(ConfigError, match="from and to are the same slides"):
        parse_config(raw)


def test_a_file_on_both_sides_is_refused_whatever_its_id():
    rows = [["a", "p", "from"], ["b", "q", "to"], ["c", "q", "to"]]
    with pytest.raises(ConfigError, match=r"both sides of a stain transfer: a \(from\) = b \(to\)"):
        refuse_shared_slides(rows, {"a": "1", "b": "1", "c": "2"})
    refuse_shared_slides(rows, {"a": "1", "b": "3", "c": "2"})


def test_patients_with_two_roles_in_the_sheet_are_refused():
    rows = [slide("a", "HE", "train"), slide("a", "PAS", "test")]
    with pytest.raises(ConfigError, match="two roles in the split column: a"):
        assigned(rows)


@pytest.mark.parametrize(("size", "valid"), [(256, True), (66, False), (32, False)])
def test_patches_must_be_halved_twice(size, valid):
    raw = {"grids": {"x20": {"size": size}}, "stain_transfers": {"t": SIDES}}
    if valid:
        assert parse_config(raw).stain_transfers["t"].sides[1].value == "PAS"
    else:
        with pytest.raises(ConfigError, match="take a multiple of 4 px that is at least 64"):
            parse_config(raw)
