"""Comparison of two tasks: DeLong's test, the paired bootstrap, and what cannot be compared."""

from __future__ import annotations

from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.kinds import Kind
from histomake.config import Target, parse_config
from histomake.evaluate.comparison import compare
from histomake.evaluate.delong import compare_areas
from histomake.evaluate.items import SlidePrediction
from histomake.report.comparison_section import comparison_section
from sklearn.metrics import roc_auc_score

TARGET = Target(source="sheet", column="grade", classes=["low", "high"])


def test_delong_has_the_values_of_a_published_example():
    # https://glassboxmedicine.com/2020/02/04/comparing-aucs-of-machine-learning-models-with-delongs-test/
    scores = np.array([[0.1, 0.2, 0.6, 0.7, 0.8], [0.3, 0.6, 0.2, 0.7, 0.9]])
    found = compare_areas(scores, np.array([0, 0, 1, 1, 1], bool))
    assert found.areas == pytest.approx((1, 2 / 3))
    assert found.error == pytest.approx(1 / 3)
    assert found.p == pytest.approx(0.3173, abs=1e-3)


def by_definition(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas, and their covariance from all pairs of items: equations 4 to 6 of DeLong et al. 1988."""
    of_positive, of_negative = scores[:, positive], scores[:, ~positive]
    gap = of_positive[:, :, None] - of_negative[:, None, :]
    wins = (gap > 0) + 0.5 * (gap == 0)
    covariance = np.cov(wins.mean(2)) / positive.sum() + np.cov(wins.mean(1)) / (~positive).sum()
    return wins.mean((1, 2)), covariance


@pytest.mark.parametrize(("seed", "digits"), list(product(range(3), (1, 8))))
def test_delong_equals_its_definition_by_all_pairs_with_and_without_ties(seed: int, digits: int):
    rng = np.random.default_rng(seed)
    positive = rng.random(60) < 0.4
    scores = np.round(rng.normal(0, 1, (2, 60)) + positive, digits)
    areas, covariance = by_definition(scores, positive)
    found = compare_areas(scores, positive)
    assert found.areas == pytest.approx(tuple(areas))
    assert found.areas[0] == pytest.approx(roc_auc_score(positive, scores[0]))
    assert found.error**2 == pytest.approx(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])


def test_delong_rejects_equal_areas_as_often_as_it_says():
    rng = np.random.default_rng(1)
    p_values = []
    for _ in range(400):
        positive = np.arange(80) < 40
        common = rng.normal(0, 1, 80) + positive
        p_values.append(compare_areas(common + rng.normal(0, 1, (2, 80)), positive).p)
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09


def test_equal_scores_have_no_error_and_no_p():
    found = compare_areas(np.tile([0.1, 0.6, 0.4, 0.8], (2, 1)), np.array([0, 0, 1, 1], bool))
    assert np.isnan(found.error)
    assert np.isnan(found.p)


def predictions(scores: np.ndarray, *, patients: int, labels: np.ndarray) -> list[SlidePrediction]:
    """One slide per score, in turn of ``patients`` patients."""
    found = []
    for i, score in enumerate(scores):
        label = pa.array([["low", "high"][labels[i]]], pa.string()).dictionary_encode()
        columns = {"score_low": [1 - score], "score_high": [score], "tissue": [1.0], "label": label}
        name = {"grade": ["low", "high"][labels[i]]}
        found.append(SlidePrediction(f"s{i:02}", f"p{i % patients:02}", 0, pa.table(columns), labels=name))
    return found


def pair(seed: int = 0, patients: int = 40, gain: float = 2.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % 2
    good, bad = (1 / (1 + np.exp(-(rng.normal(0, 1, 40) + g * (labels - 0.5)))) for g in (gain, 0.0))
    return [predictions(scores, patients=patients, labels=labels) for scores in (good, bad)]


def compared(first, second, **values):
    told = {"kind": Kind.CLASSIFICATION, "target": TARGET, "seed": 1, "bootstraps": 200} | values
    return compare(("a", first, "mean"), ("b", second, "mean"), **told)


def test_a_better_task_is_better_with_an_interval_and_small_p_values():
    found = compared(*pair(gain=4.0)).levels["patient"].metrics["all"]["auroc"]
    assert found.first - found.second == pytest.approx(found.difference.value)
    assert found.difference.low > 0
    assert found.p_bootstrap < 0.05
    assert found.p_delong < 0.05


def test_a_task_compared_with_its_own_predictions_has_no_difference():
    first, _ = pair()
    found = compared(first, first).levels["slide"].metrics["all"]
    assert all(metric.difference.value in (0, None) for metric in found.values())
    assert found["auroc"].p_bootstrap == 1
    assert found["auroc"].p_delong is None


def test_swapping_the_tasks_changes_the_sign_only():
    first, second = pair()
    there, back = (
        compared(*tasks).levels["patient"].metrics["all"]["auroc"] for tasks in ((first, second), (second, first))
    )
    assert there.difference.value == pytest.approx(-back.difference.value)
    assert there.difference.low == pytest.approx(-back.difference.high)
    assert there.p_delong == pytest.approx(back.p_delong)


def test_delong_is_used_for_patients_alone_because_slides_of_one_are_not_independent():
    found = compared(*pair(patients=10), patient_truth="any")
    assert found.levels["slide"].metrics["all"]["auroc"].p_delong is None
    assert found.patients == 10


def test_slides_of_one_task_alone_are_left_out_and_named():
    first, second = pair()
    found = compared(first[:-2], second[1:])
    assert found.left_out == ["s00", "s38", "s39"]
    assert (found.slides, found.levels["slide"].count) == (37, 37)


def test_tasks_without_a_common_test_slide_are_refused():
    first, second = pair()
    with pytest.raises(HistomakeError, match="no test slide in common"):
        compared(first[:10], second[10:])


def test_tasks_with_different_truths_are_refused():
    first, _ = pair()
    other = predictions(np.full(40, 0.5), patients=40, labels=1 - np.arange(40) % 2)
    with pytest.raises(HistomakeError, match="different truths"):
        compared(first, other)


def test_numbers_are_compared_by_their_errors():
    rng = np.random.default_rng(0)
    truth = rng.random(30)

    def predicted(noise: float) -> list[SlidePrediction]:
        values = truth + rng.normal(0, noise, 30)
        tables = [
            pa.table({"score_n": [v], "target_n": [t], "tissue": [1.0]}) for v, t in zip(values, truth, strict=True)
        ]
        return [SlidePrediction(f"s{i}", f"p{i}", 0, t, labels={"n": str(truth[i])}) for i, t in enumerate(tables)]

    target = Target(source="sheet", column="n")
    found = compared(predicted(0.01), predicted(0.5), kind=Kind.REGRESSION, target=target)
    assert found.levels["slide"].metrics["all"]["mae"].difference.high < 0


def test_the_report_shows_both_tasks_their_difference_and_what_was_left_out(tmp_path):
    first, second = pair()
    compared(first[:-1], second).write(tmp_path / "c.json")
    text = str(comparison_section(tmp_path / "c.json"))
    for part in ("a against b", "AUROC", "p (DeLong)", "predictions of them: s39"):
        assert part in text
    assert str(comparison_section(tmp_path / "missing.json")) == ""


@pytest.mark.parametrize(
    ("pairs", "changes", "message"),
    [
        ([["a", "c"]], {}, "c is not under tasks"),
        ([["a", "a"]], {}, "cannot be compared with itself"),
        ([["a", "b"]], {"kind": "regression", "target": {"classes": ["x"]}}, "different kinds or targets"),
        ([["a", "b"]], {"predict": {"patient_truth": "any"}}, r"patient_truth must be the same"),
        ([["a", "b"], ["a", "b"]], {}, "listed twice"),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused(pairs, changes, message):
    task = {"grid": "g", "target": {"classes": ["x", "y"]}}
    raw = {"grids": {"g": {}}, "annotations": {"classes": {"x": "x", "y": "y"}}}
    raw |= {"tasks": {"a": task, "b": task | changes}, "compare": pairs}
    with pytest.raises(ConfigError, match=message):
        parse_config(raw)
