"""Operating points: thresholds chosen on validation items, and what they reach on test items."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from histomake.base.errors import ConfigError
from histomake.base.kinds import Kind
from histomake.base.records.metrics import MetricsRecord
from histomake.config import Target, parse_config
from histomake.config.evaluation import Evaluate
from histomake.evaluate.evaluation import evaluate
from histomake.evaluate.items import SlidePrediction
from histomake.evaluate.operating import UnreachableError, threshold_for
from histomake.evaluate.statistics import predictive_at
from histomake.report.statistics_section import statistics_sections

TARGET = Target(source="sheet", column="grade", classes=["low", "high"])
SCORE = np.array([0.1, 0.2, 0.4, 0.6, 0.8, 0.9])
POSITIVE = np.array([0, 0, 1, 0, 1, 1], bool)


@pytest.mark.parametrize(
    ("measure", "wanted", "threshold"),
    [
        # The three positives score 0.4, 0.8 and 0.9, the three negatives 0.1, 0.2 and 0.6.
        *[("sensitivity", 1 / 3, 0.85), ("sensitivity", 0.5, 0.7), ("sensitivity", 0.95, 0.3)],
        *[("specificity", 0.95, 0.7), ("specificity", 2 / 3, 0.3), ("specificity", 0.3, 0.15)],
    ],
)
def test_the_threshold_reaches_what_is_wanted_with_the_largest_other_measure(measure, wanted, threshold):
    assert threshold_for(SCORE, POSITIVE, measure, wanted) == pytest.approx(threshold)


def test_a_specificity_that_only_calling_nothing_reaches_is_refused():
    with pytest.raises(UnreachableError, match="only if nothing is called positive"):
        threshold_for(np.array([0.2, 0.9]), np.array([True, False]), "specificity", 0.9)


@pytest.mark.parametrize(("positive", "told"), [([0, 0], "no positive"), ([1, 1], "only positives")])
def test_validation_items_of_one_class_give_no_threshold(positive, told):
    with pytest.raises(UnreachableError, match=told):
        threshold_for(np.array([0.2, 0.9]), np.array(positive, bool), "sensitivity", 0.9)


def test_predictive_values_follow_from_bayes_theorem():
    # 1,000 people at 10 %: 90 of 100 ill and 90 of 900 healthy are called, 10 and 810 are not.
    found = predictive_at(0.1, {"sensitivity": np.array([0.9]), "specificity": np.array([0.9])})
    assert found["ppv"][0] == pytest.approx(90 / 180)
    assert found["npv"][0] == pytest.approx(810 / 820)


def slides(scores, labels, *, fold: int = 0, patients=None, threshold: float = 0.5) -> list[SlidePrediction]:
    """One slide of one patch per score; of a patient of its own, or of the one given."""
    found = []
    for i, (score, label) in enumerate(zip(scores, labels, strict=True)):
        name = ["low", "high"][int(label)]
        columns = {"score_low": [1 - score], "score_high": [float(score)], "tissue": [1.0]}
        columns["label"] = pa.array([name], pa.string()).dictionary_encode()
        patient = f"p{i if patients is None else patients[i]}"
        told = {"threshold": threshold, "slide_thresholds": {"mean": threshold}, "labels": {"grade": name}}
        found.append(SlidePrediction(f"s{i}", patient, fold, pa.table(columns), **told))
    return found


def measured(test, validation, **told) -> MetricsRecord:
    settings = Evaluate(operating_points={"sensitivity": 0.95}, prevalences=[0.1])
    common = {"kind": Kind.CLASSIFICATION, "target": TARGET, "aggregate": "mean", "seed": 0, "bootstraps": 50}
    return evaluate(test, statistics=settings, validation=validation, **common | told).record


def test_the_threshold_of_validation_patients_is_applied_to_test_patients():
    # Chosen at 0.3 above; of the test patients, 0.25 is missed, and 0.35 is called although it is negative.
    test = slides([0.25, 0.35, 0.5, 0.1], [1, 0, 1, 0])
    own, chosen = measured(test, slides(SCORE, POSITIVE)).levels["patient"].operating_points["high"]
    assert (own.aim, own.thresholds) == ("model", {})
    assert (own.metrics["sensitivity"].value, own.metrics["specificity"].value) == (0.5, 1.0)
    assert chosen.thresholds == pytest.approx({"0": 0.3})
    assert (chosen.reached, chosen.positives, chosen.negatives) == (1.0, 3, 3)
    assert {name: found.value for name, found in chosen.metrics.items()} == {
        **{"sensitivity": 0.5, "specificity": 0.5},
        **{"ppv": 0.5, "npv": 0.5},
    }
    assert chosen.at_prevalence[0].ppv.value == pytest.approx(0.1)
    assert chosen.metrics["sensitivity"].low < 0.5 < chosen.metrics["sensitivity"].high


def test_every_fold_has_its_own_threshold():
    test = [*slides([0.45], [1]), *slides([0.45, 0.45], [1, 0], fold=1, patients=[7, 8])]
    validation = [*slides([0.2, 0.4], [0, 1]), *slides([0.2, 0.8], [0, 1], fold=1)]
    chosen = measured(test, validation).levels["patient"].operating_points["high"][1]
    assert chosen.thresholds == pytest.approx({"0": 0.3, "1": 0.5})
    # Called in fold 0 only.
    assert (chosen.metrics["sensitivity"].value, chosen.metrics["specificity"].value) == (0.5, 1.0)


def test_a_patient_that_several_models_predict_has_the_mean_of_their_thresholds():
    labels = [1, 0]
    test = [*slides([0.35, 0.1], labels), *slides([0.49, 0.1], labels, fold=1)]
    validation = [*slides([0.2, 0.4], [0, 1]), *slides([0.2, 0.8], [0, 1], fold=1)]
    # Scores 0.42 and 0.1, threshold 0.4.
    chosen = measured(test, validation).levels["patient"].operating_points["high"][1]
    assert (chosen.metrics["sensitivity"].value, chosen.metrics["specificity"].value) == (1.0, 1.0)


def test_without_a_validation_positive_the_operating_point_says_why_and_the_models_own_remains():
    test = slides([0.25, 0.9], [0, 1])
    own, chosen = measured(test, slides([0.2, 0.3], [0, 0])).levels["patient"].operating_points["high"]
    assert chosen.refused == "fold 0: the validation set has no positive"
    assert not chosen.metrics
    assert own.metrics["sensitivity"].value == 1.0


def test_the_record_is_read_as_it_was_written_and_the_report_shows_it(tmp_path):
    record = measured(slides([0.25, 0.35, 0.5, 0.1], [1, 0, 1, 0]), slides(SCORE, POSITIVE))
    record.write(tmp_path / "m.json")
    (section,) = statistics_sections("t", MetricsRecord.read(tmp_path / "m.json"))
    for text in ("sensitivity 0.95", "1.000 of 3 positive, 3 negative", "PPV at 0.1", "unreliable"):
        assert text in section, text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluate": {"operating_points": {"sensitivity": 0.95}}}, "set predict.roles: .val, test, predict."),
        (
            {"evaluate": {"prevalences": [0.1]}, "kind": "regression", "train": {}},
            "regression has no scores of classes",
        ),
        ({"evaluate": {"prevalences": [0.1, 0.1]}}, "a value is listed twice"),
        ({"evaluate": {"prevalences": [1.0]}}, "less than 1"),
    ],
)
def test_settings_without_a_meaning_are_refused(changes, message):
    task = {"kind": "classification", "grid": "x10", "target": {"classes": ["a", "b"]}} | changes
    raw = {"annotations": {"classes": {"a": "a", "b": "b"}}, "grids": {"x10": {"mpp": 1.0}}, "tasks": {"t": task}}
    with pytest.raises(ConfigError, match=message):
        parse_config(raw)
