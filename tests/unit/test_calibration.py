"""Calibration of probabilities and decision curves: cases computed by hand, and a second implementation."""

from __future__ import annotations

import numpy as np
import pytest
from histomake.evaluate.calibration import THRESHOLDS, calibration, net_benefit
from sklearn.linear_model import LogisticRegression


def calibrated(score, positive, **told) -> tuple[float, float]:
    count = len(score)
    weights = told.get("weights", np.ones((1, count)))
    patient = told.get("patient", np.arange(count))
    found = calibration(np.asarray(score, float), np.asarray(positive, bool), patient, weights)
    return tuple(found[name][0] for name in ("calibration_in_the_large", "calibration_slope"))


def test_calibration_in_the_large_is_the_shift_of_the_log_odds():
    # Three of four are positive where one half is predicted: ln(3 / 1) - ln(1 / 1).
    large, slope = calibrated([0.5, 0.5, 0.5, 0.5], [1, 1, 1, 0])
    assert large == pytest.approx(np.log(3))
    assert np.isnan(slope), "one probability has no slope"


def test_the_slope_is_that_between_two_probabilities():
    # Of four predicted 0.2 one is positive, of four predicted 0.8 three are: log odds of 3 instead of 4 on both sides.
    large, slope = calibrated([0.2] * 4 + [0.8] * 4, [1, 0, 0, 0, 1, 1, 1, 0])
    assert large == pytest.approx(0, abs=1e-9)
    assert slope == pytest.approx(np.log(3) / np.log(4))


def test_the_slope_is_that_of_a_logistic_regression_without_penalty():
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 1.5, 90)
    positive = rng.random(90) < 1 / (1 + np.exp(-0.6 * logit - 0.4))
    expected = LogisticRegression(C=np.inf, tol=1e-10).fit(logit[:, None], positive)
    assert calibrated(1 / (1 + np.exp(-logit)), positive)[1] == pytest.approx(expected.coef_[0, 0], abs=1e-4)


def test_many_items_are_fitted_in_bins_that_change_little():
    rng = np.random.default_rng(1)
    logit = rng.normal(0, 1.5, 5000)
    positive = rng.random(5000) < 1 / (1 + np.exp(-0.8 * logit))
    expected = LogisticRegression(C=np.inf, tol=1e-10).fit(logit[:, None], positive)
    assert calibrated(1 / (1 + np.exp(-logit)), positive)[1] == pytest.approx(expected.coef_[0, 0], rel=0.02)


def test_patients_count_as_often_as_they_were_drawn():
    weights = np.array([[2.0, 1.0, 1.0, 0.0]])
    once = calibrated([0.3, 0.3, 0.6, 0.6], [1, 0, 0, 1], weights=weights)
    assert once == pytest.approx(calibrated([0.3, 0.3, 0.3, 0.6], [1, 1, 0, 0]), nan_ok=True)


def test_classes_that_do_not_overlap_have_no_slope():
    large, slope = calibrated([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    assert large == pytest.approx(0, abs=1e-9)
    assert np.isnan(slope)


@pytest.mark.parametrize("positive", [[0, 0], [1, 1]])
def test_one_class_alone_has_no_calibration(positive):
    assert np.isnan(calibrated([0.3, 0.6], positive)).all()


def test_net_benefit_is_that_of_vickers_and_elkin():
    # From 0.5 on, two of three positives and one of two negatives are called: 2 / 5 - 1 / 5 at odds of 1.
    found = dict(
        zip(THRESHOLDS, net_benefit(np.array([0.2, 0.6, 0.8, 0.1, 0.7]), np.array([1, 1, 1, 0, 0], bool)), strict=True)
    )
    assert found[0.5] == pytest.approx(0.4 - 0.2)
    # At 0.2 the first is called too: 3 / 5 - 1 / 5 at odds of 1 to 4.
    assert found[0.2] == pytest.approx(0.6 - 0.2 / 4)
    assert found[0.9] == 0
