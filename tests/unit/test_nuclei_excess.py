"""Invented and lost nuclei beyond a normalisation: by hand, with intervals by patients, and when they are flagged."""

from __future__ import annotations

import pytest
from histomake.base.records.transfer_measures import NucleiMatch, SlideStructure
from histomake.generate.nuclei_excess import FLOOR, Excess, control, excess, excess_flags
from hypothesis import given
from hypothesis import strategies as st

NOTHING = Excess(None, None, 0)


def match(invented: int, lost: int = 0, dice: float = 0.9) -> NucleiMatch:
    return NucleiMatch(nuclei=100 + invented - lost, dice=dice, invented=invented, lost=lost)


def slide(patient: str, transfer: NucleiMatch | None, *, nuclei: int = 100, **controls: NucleiMatch) -> SlideStructure:
    measured = {"reinhard": None, "macenko": None} | controls
    unmeasured = dict.fromkeys(("haematoxylin_correlation", "seam_ratio", "glass_change"))
    place = {"slide_id": f"s-{patient}", "patient_id": patient, "patches": 5, "area_mm2": 1.0}
    return SlideStructure(**place, nuclei=nuclei, transfer=transfer, **measured, **unmeasured)


def found(*slides: SlideStructure, what: str = "invented"):
    return excess(slides, what, seed=1)


def test_the_share_is_that_of_all_nuclei_less_the_control():
    known = found(slide("a", match(30), reinhard=match(10)), slide("b", match(40), nuclei=300))
    assert known.share == pytest.approx((30 - 10 + 40) / 400)
    assert found(slide("a", match(0, lost=25), reinhard=match(9, lost=5)), what="lost").share == pytest.approx(0.2)


def test_the_control_is_the_normalisation_that_agrees_better_with_the_scanned_slide():
    failed, good = match(60, dice=0.5), match(2, dice=0.95)
    assert control(slide("a", match(30), reinhard=failed, macenko=good)) == good
    assert control(slide("a", match(30), reinhard=failed)) == failed
    assert control(slide("a", match(30))) is None


def test_patients_with_equal_shares_leave_no_doubt():
    known = found(*(slide(name, match(20)) for name in "abcd"))
    assert (known.share, known.interval, known.patients) == (0.2, (0.2, 0.2), 4)
    assert known.is_flagged


def test_a_share_of_one_patient_among_others_without_is_not_flagged():
    known = found(slide("a", match(60)), slide("b", match(0)))
    assert (known.share, known.interval) == (0.3, (0.0, 0.6))
    assert known.share > FLOOR
    assert not known.is_flagged


def test_slides_of_a_patient_are_drawn_together():
    assert found(slide("a", match(40)), slide("a", match(0))).interval is None


def test_one_patient_has_no_interval_and_is_flagged_by_its_share():
    known = found(slide("a", match(11)))
    assert (known.interval, known.is_flagged) == (None, True)
    assert not found(slide("a", match(10))).is_flagged
    (sentence,) = excess_flags(("HE", "PAS"), known, NOTHING)
    assert "invents 11% of the number of nuclei (one patient, so without an interval)" in sentence


def test_a_flag_states_its_interval():
    lost = found(*(slide(name, match(0, lost=30)) for name in "abc"), what="lost")
    (sentence,) = excess_flags(("HE", "PAS"), NOTHING, lost)
    assert "from HE to PAS loses 30% of the number of nuclei (95 % interval by 3 patients: 30% to 30%)" in sentence


def test_patients_without_nuclei_do_not_count():
    known = found(slide("a", match(20)), slide("empty", NucleiMatch(nuclei=0, dice=None, invented=0, lost=0), nuclei=0))
    assert (known.patients, known.interval) == (1, None)
    assert found(slide("a", None)) == found() == NOTHING


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=2, max_size=6), st.integers(0, 50))
def test_what_the_control_invents_as_well_changes_nothing(pairs, common):
    plain, raised = (
        found(*(slide(str(n), match(a + more), macenko=match(b + more)) for n, (a, b) in enumerate(pairs)))
        for more in (0, common)
    )
    assert plain == raised
    low, high = plain.interval
    shares = [(a - b) / 100 for a, b in pairs]
    assert min(shares) - 1e-9 <= low <= high <= max(shares) + 1e-9
