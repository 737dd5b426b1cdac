"""Quarantine: one entry per slide, and the limit on the number of lost slides."""

import pytest
from histomake.base.errors import HistomakeError, Reason
from histomake.cohort.quarantine import check_loss, collect

from tests import sample_records


def test_a_slide_is_quarantined_once_for_its_first_reason():
    bad = sample_records.lost("b")
    assert collect([sample_records.manifest("a"), bad, sample_records.lost("b", reason=Reason.NO_TISSUE)]) == [bad]


def test_losing_too_many_slides_stops_the_run_and_names_them():
    bad = sample_records.lost("b")
    check_loss([bad], slides=5, max_share=0.2)
    with pytest.raises(HistomakeError, match=r"1 of 4 slides .*\n  b \(no_mpp\): no mpp. Give one"):
        check_loss([bad], slides=4, max_share=0.2)
