"""Tests of the leakage checks."""

from __future__ import annotations

import pytest
from histomake.base.errors import ConfigError
from histomake.cohort.folds import assign, assign_unfitted
from histomake.cohort.leakage import leaks, refuse_leaks, seen_before
from histomake.cohort.sheet import Slide
from histomake.config import Split


def test_identical_slide_files_in_two_roles_are_found():
    slides = [Slide(s, "x", p, split=r) for s, p, r in [("a", "p", "train"), ("b", "q", "test"), ("c", "r", "val")]]
    found = leaks(assign(slides, Split(), seed=0, task="t"), {"a": "same", "b": "same", "c": "other"})
    assert found == ["fold 0: same slide bytes same in test: b; train: a"]


def test_test_slides_that_a_model_was_trained_with_are_found() -> None:
    found = assign_unfitted([Slide(s, "x", s, split=r) for s, r in (("a", "test"), ("b", "predict"))], folds=1)
    digests = {"a": "0123456789", "b": "5555555555"}
    assert seen_before(found, digests, ["01234", "55555"]) == ["a"]
    assert seen_before(found, digests, []) == []


def test_leaks_are_refused_with_the_name_of_the_task():
    refuse_leaks([], "grade")
    with pytest.raises(ConfigError, match="task grade: slides leak between roles:\n  fold 0: same patient p"):
        refuse_leaks(["fold 0: same patient p in test: b; train: a"], "grade")
