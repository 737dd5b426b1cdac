"""Scores of slides and patients: cases computed by hand."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest
from histomake.base.kinds import Kind
from histomake.evaluate.slide_scores import PredictedSlide, pool, score_table

from tests import sample_records

CARD = sample_records.model_card(class_names=["a", "b"], slide_thresholds={"mean": 0.6})


def predicted(
    slide: str, patient: str, scores: list[float], *, fold: int = 0, tissue=None, validated: bool = False, **changes
):
    columns = {
        "score_a": pa.array([1 - s for s in scores], pa.float32()),
        "score_b": pa.array(scores, pa.float32()),
        "tissue": pa.array(tissue or [1.0] * len(scores), pa.float32()),
    }
    card, table = msgspec.structs.replace(CARD, **changes), pa.table(columns)
    return lambda aggregate: PredictedSlide(
        slide, patient, fold, pool(table, card.class_names, aggregate), card, validated
    )


def rows(slides, *, aggregate: str = "mean", card=CARD):
    return score_table((slide(aggregate) for slide in slides), card, aggregate=aggregate).to_pylist()


def test_slides_and_patients_are_pooled_and_judged_by_the_validation_threshold():
    found = rows([predicted("s1", "p", [0.9, 0.5]), predicted("s2", "p", [0.1])])
    assert [(r["level"], r["slide_id"], r["patches"]) for r in found] == [
        ("patient", "", 3),
        ("slide", "s1", 2),
        ("slide", "s2", 1),
    ]
    assert [r["score_b"] for r in found] == pytest.approx([0.4, 0.7, 0.1])
    assert [r["predicted"] for r in found] == ["a", "b", "a"]


def test_the_named_aggregation_is_used():
    slide = predicted("s", "p", [0.2, 0.8], tissue=[1.0, 0.25])
    (_, area) = rows([slide], aggregate="area")
    (_, highest) = rows([slide], aggregate="max")
    assert area["score_b"] == pytest.approx((0.2 + 0.8 * 0.25) / 1.25)
    # Without a threshold of its own the aggregation takes the patches'.
    assert (highest["score_b"], highest["predicted"]) == (pytest.approx(0.8), "b")


def test_several_folds_are_also_averaged():
    found = rows([predicted("s", "p", [0.2], fold=0), predicted("s", "p", [0.8], fold=1)])
    assert {(r["level"], r["fold"]): r["score_b"] for r in found} == pytest.approx(
        {
            (level, fold): score
            for level in ("slide", "patient")
            for fold, score in (("0", 0.2), ("1", 0.8), ("all", 0.5))
        }
    )


def test_the_mean_over_folds_leaves_out_the_models_that_were_validated_on_the_slide():
    scores = ((0.25, False), (0.75, False), (1.0, True))
    found = rows([predicted("s", "p", [score], fold=i, validated=known) for i, (score, known) in enumerate(scores)])
    by_fold = {r["fold"]: (r["score_b"], r["validated"]) for r in found if r["level"] == "patient"}
    assert by_fold == {"0": (0.25, False), "1": (0.75, False), "2": (1.0, True), "all": (0.5, False)}


def test_a_slide_without_patches_is_listed_and_weighs_nothing():
    found = rows([predicted("s1", "p", [0.9]), predicted("lost", "p", []), predicted("gone", "q", [])])
    by_name = {(r["level"], r["slide_id"] or r["patient_id"]): r for r in found}
    assert by_name["slide", "lost"]["score_b"] is None
    assert by_name["slide", "lost"]["predicted"] is None
    assert by_name["patient", "p"]["score_b"] == pytest.approx(0.9)
    assert by_name["patient", "q"]["score_b"] is None


def test_several_labels_are_joined_and_numbers_are_not_decided():
    several = {"kind": Kind.MULTI_LABEL, "threshold": [0.5, 0.5], "slide_thresholds": {}}
    found = rows([predicted("s", "p", [0.5], **several)], card=msgspec.structs.replace(CARD, **several))
    assert found[1]["predicted"] == "a+b"
    number = {"kind": Kind.REGRESSION}
    (_, undecided) = rows([predicted("s", "p", [0.5], **number)], card=msgspec.structs.replace(CARD, **number))
    assert undecided["predicted"] is None


def test_no_slides_give_an_empty_table():
    assert rows([]) == []
