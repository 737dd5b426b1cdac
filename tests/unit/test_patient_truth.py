"""Truth of patients whose slides differ: by a configured rule, or none."""

from __future__ import annotations

import numpy as np
import pytest
from histomake.base.errors import ConfigError
from histomake.config import parse_config
from histomake.config.kinds import ACCEPTED
from histomake.evaluate.kinds import EVALUATED
from histomake.evaluate.patient_truth import OF_CLASSES
from histomake.report.task_section import metrics_table
from histomake.target.targets import is_known

from tests.unit.test_metrics import NAMES, metric, prediction, run

ONE_HOT = np.eye(2)


def mixed(names=NAMES):
    """Patient 0 has slides of classes 0, 1, 1; patient 1 of class 0; patient 2 of class 1. All are right."""
    slides = [(0, 0), (0, 1), (0, 1), (1, 0), (2, 1)]
    return [
        prediction(number, patient, ONE_HOT[np.full(4, label)], np.full(4, label), names)
        for number, (patient, label) in enumerate(slides)
    ]


def test_patients_are_not_evaluated_by_default_if_the_slides_of_one_differ():
    found = run(mixed(), bootstraps=5)
    patient = found.record.levels["patient"]
    assert (patient.count, patient.metrics) == (0, {})
    assert "set predict.patient_truth" in patient.refused
    assert found.record.patients_of_several_classes == ["p0"]
    assert not [row for row in found.rows if row.level == "patient"]
    assert found.record.levels["slide"].count == 5


def test_the_report_says_why_patients_are_not_evaluated():
    assert "Patients are not evaluated: 1 test patient(s)" in metrics_table(run(mixed(), bootstraps=5).record)


def test_patients_with_slides_of_one_class_are_evaluated_by_default():
    found = run(mixed()[3:], bootstraps=5)
    assert found.record.levels["patient"].count == 2
    assert found.record.levels["patient"].refused is None


@pytest.mark.parametrize(("rule", "truth"), [("any", [1, 0, 1]), ("all", [0, 0, 1]), ("majority", [1, 0, 1])])
def test_a_rule_decides_the_class_of_a_patient(rule, truth):
    found = run(mixed(), bootstraps=5, patient_truth=rule)
    assert found.items["patient"].target.tolist() == truth
    assert found.record.patient_truth == rule


def test_the_majority_does_not_depend_on_the_order_of_the_classes():
    """Before, the class that is listed last was the patient's, so that swapping classes changed the truth."""
    slides = [(0, 0), (0, 0), (0, 1), (1, 1), (2, 0)]

    def accuracy(names, swap):
        made = [
            prediction(n, patient, ONE_HOT[np.full(4, label ^ swap)], np.full(4, label ^ swap), names)
            for n, (patient, label) in enumerate(slides)
        ]
        found = run(made, names, bootstraps=5, patient_truth="majority")
        return {names[t] for t in found.items["patient"].target[:1]}, metric(found, "patient", "accuracy")

    assert accuracy(NAMES, 0) == accuracy(NAMES[::-1], 1) == ({"benign"}, 1.0)


def test_patients_with_a_tie_are_left_out_by_the_majority():
    found = run(mixed()[1:], bootstraps=5, patient_truth="majority")
    assert found.items["patient"].target.tolist() == [1, 0, 1]
    found = run([mixed()[0], *mixed()[2:]], bootstraps=5, patient_truth="majority")
    assert found.items["patient"].patient.tolist() == [1, 2]


LABELS = np.array([[1, 0, 1], [1, 0, 0], [0, 0, 1]], np.float64)


@pytest.mark.parametrize(
    ("rule", "truth"), [("any", [1, 0, 1]), ("all", [0, 0, 0]), ("majority", [1, 0, 1]), ("refuse", None)]
)
def test_rules_decide_on_every_label_of_several(rule, truth):
    found = OF_CLASSES[rule](LABELS)
    assert found.tolist() == truth if truth else not is_known(found[None])[0]


def test_a_tie_in_one_label_leaves_the_patient_out():
    assert not is_known(OF_CLASSES["majority"](LABELS[:2])[None])[0]


@pytest.mark.parametrize("kind", ACCEPTED)
def test_the_rules_of_a_kind_are_those_that_its_configuration_accepts(kind):
    assert (EVALUATED[kind].patient_truth is OF_CLASSES) == ACCEPTED[kind].patient_truth


def test_a_rule_for_numbers_is_refused():
    task = {"kind": "regression", "grid": "x20", "target": {"classes": ["a"]}, "predict": {"patient_truth": "any"}}
    with pytest.raises(ConfigError, match=r"predict\.patient_truth: regression gives patients no class"):
        parse_config({"annotations": {"classes": {"a": "a"}}, "tasks": {"t": task}})
