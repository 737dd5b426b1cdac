"""Survival at one time: hazards by intervals, cumulative hazards, AUC, calibration, and C-indices of many patients."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from histomake.bags.hazards import IntervalHazards, cumulative_hazard, survival_card
from histomake.base.patient_bootstrap import patient_weights
from histomake.base.records.model_card import SurvivalCard
from histomake.config import Task
from histomake.evaluate.horizon import Horizon, auc, kaplan_meier
from histomake.evaluate.items import Items
from histomake.evaluate.survival import survival_metrics
from histomake.learn.objectives.losses import interval_hazards, interval_outcomes
from histomake.target.survival import ordered_pairs
from scipy.stats import CensoredData, ecdf

SURVIVAL_LIBRARY = {
    "auc": {0.3: 0.7794000867450548, 0.6: 0.740468694693734, 1.0: 0.8334230865322811},
    "cumulative_hazard": {0: 0.012857747685925779, 5: 0.09006621199382704, 10: 0.21936185359717666},
}
"""Of scikit-survival 0.28 for `cohort(60, 5)`: cumulative_dynamic_auc by time, and BreslowEstimator by number of the \
event."""


def cohort(count, seed, *, censored=1.0):
    """Risks, and times and events of the hazards that they are the logarithms of."""
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=count).round(1)
    happens, ends = rng.exponential(np.exp(-risk)), rng.exponential(censored, count)
    return risk, np.stack([np.minimum(happens, ends), (happens <= ends).astype(float)], 1)


def items(risk, target, fold=0):
    count = len(risk)
    folds = np.broadcast_to(fold, count).copy()
    return Items(np.array(risk, float)[:, None], np.array(target, float), np.zeros(count, int), np.arange(count), folds)


def weights(count, bootstraps=20):
    return patient_weights(np.arange(count), count, seed=0, bootstraps=bootstraps)


# --- C-index ------------------------------------------------------------------------------------------------------


def pairs_one_by_one(risk, time, event, weight):
    """Comparable and concordant pairs by the definition."""
    comparable = concordant = 0.0
    for i in range(len(risk)):
        for j in range(len(risk)):
            if event[i] == 1 and (time[j] > time[i] or (time[j] == time[i] and event[j] == 0)):
                pair = weight[i] * weight[j]
                comparable += pair
                concordant += pair * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    return comparable, concordant


@pytest.mark.parametrize("ties", [1, 5, 1000])
def test_the_pairs_of_the_c_index_are_those_of_the_definition(ties, monkeypatch):
    monkeypatch.setattr("histomake.target.survival.TREE_NUMBERS", 150)
    rng = np.random.default_rng(ties)
    risk = np.ceil(rng.normal(size=40) * 1000 / ties)
    time, event = np.ceil(rng.exponential(size=40) * 1000 / ties), (rng.random(40) < 0.6).astype(float)
    weight = rng.integers(0, 3, (7, 40)).astype(float)
    found = np.stack(ordered_pairs(risk, time, event, weight), 1)
    assert found == pytest.approx(np.array([pairs_one_by_one(risk, time, event, each) for each in weight]))


def test_the_c_index_of_many_patients_needs_no_matrix_of_pairs():
    risk, target = cohort(12_000, 1)
    tracemalloc.start()
    comparable, concordant = ordered_pairs(risk, *target.T)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert 0.65 < concordant[0] / comparable[0] < 0.8


# --- hazards by intervals -----------------------------------------------------------------------------------------


def test_intervals_end_with_equally_many_events_and_begin_with_the_hazards_of_the_cohort():
    target = np.array([[1, 1], [2, 1], [3, 1], [4, 1], [9, 0]])
    found = IntervalHazards.of(target, 2)
    assert found.ends.tolist() == [2.0, 4.0]
    shares = 1 - np.exp(-np.exp(found.log_baseline.detach().numpy()))
    assert shares == pytest.approx([2 / 5, 2 / 3])
    assert len(IntervalHazards.of(np.array([[1, 1], [1, 1], [2, 0]]), 5).ends) == 1


def test_who_is_censored_counts_for_an_interval_from_its_middle_on():
    ends = torch.tensor([2.0, 4.0])
    time, event = torch.tensor([0.9, 1.0, 2.0, 3.0, 9.0, 9.0]), torch.tensor([0.0, 0, 1, 0, 0, 1])
    survived, failed = interval_outcomes(time, event, ends)
    assert survived.int().tolist() == [[0, 0], [1, 0], [0, 0], [1, 1], [1, 1], [1, 1]]
    assert failed.int().tolist() == [[0, 0], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0]]


def test_the_loss_of_hazards_is_the_likelihood_and_has_its_gradient():
    target, ends = torch.tensor([[3.0, 1], [5.0, 0], [torch.nan, torch.nan]]), torch.tensor([2.0, 4.0])
    risk, baseline = torch.tensor([[0.5], [-1.0], [7.0]]).double(), torch.tensor([-1.0, 0.3]).double()
    first = math.exp(-math.exp(-1 + 0.5)) * (1 - math.exp(-math.exp(0.3 + 0.5)))
    second = math.exp(-math.exp(-1 - 1)) * math.exp(-math.exp(0.3 - 1))
    assert float(interval_hazards(risk, target, ends, baseline)) == pytest.approx(-math.log(first * second) / 2)
    given = (risk.requires_grad_(), baseline.requires_grad_())
    assert torch.autograd.gradcheck(lambda r, b: interval_hazards(r, target, ends, b), given)


def test_the_loss_of_hazards_stays_finite_and_batches_of_unknown_survival_change_nothing():
    risk = torch.tensor([[900.0], [-900.0], [0.0]], requires_grad=True)
    loss = interval_hazards(risk, torch.tensor([[1.0, 0], [1, 1], [1, 1]]), torch.tensor([1.0]), torch.zeros(1))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(risk.grad).all()
    unknown = interval_hazards(risk, torch.full((3, 2), torch.nan), torch.tensor([1.0]), torch.zeros(1))
    assert float(unknown) == 0


@pytest.mark.parametrize("count", [400, 4000])
def test_intervals_recover_a_synthetic_hazard(count):
    risk, target = cohort(count, 2)
    hazards, factor = IntervalHazards.of(target, 10), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([hazards.log_baseline, factor], max_iter=200, line_search_fn="strong_wolfe")
    given, truth = torch.from_numpy(risk)[:, None], torch.from_numpy(target)

    def step():
        optimiser.zero_grad()
        loss = hazards(factor * given, truth)
        loss.backward()
        return loss

    optimiser.step(step)
    assert factor.item() == pytest.approx(1, abs=4 / math.sqrt(count))
    # The cumulative hazard of the risk 0 is the time itself.
    ends = hazards.ends.numpy()[:-2]
    assert hazards.cumulative()[:-2] == pytest.approx(ends, rel=0.1 + 4 / math.sqrt(count))


def test_the_cumulative_hazard_is_that_of_the_library():
    times, found = cumulative_hazard(*cohort(60, 5))
    for number, expected in SURVIVAL_LIBRARY["cumulative_hazard"].items():
        assert found[number] == pytest.approx(expected, abs=1e-9)
    assert (np.diff(times) > 0).all()
    risk, target = cohort(60, 5)
    shifted = cumulative_hazard(risk + 3, target)[1]
    assert shifted * math.exp(3) == pytest.approx(found)


@pytest.mark.parametrize(
    ("train", "message"),
    [({"intervals": 3}, "only loss hazards has intervals"), ({"loss": "hazards", "intervals": 0}, "greater than or")],
)
def test_intervals_that_are_not_used_or_none_are_refused(train, message):
    told = {"kind": "survival", "level": "slide", "grid": "g", "features": "a"}
    told["target"] = {"source": "sheet", "time": "months", "event": "died"}
    with pytest.raises(ValueError, match=message):
        Task.model_validate({**told, "train": train})


def test_a_horizon_is_refused_where_there_are_no_times():
    with pytest.raises(ValueError, match=r"predict\.horizon: classification has no times"):
        Task.model_validate({"grid": "g", "target": {"classes": ["a", "b"]}, "predict": {"horizon": 3}})


# --- AUC and calibration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", SURVIVAL_LIBRARY["auc"])
def test_the_auc_at_a_time_is_that_of_the_library(time):
    given = items(*cohort(60, 5))
    found = auc(given, weights(60), time)
    assert found[0] == pytest.approx(SURVIVAL_LIBRARY["auc"][time], abs=1e-9)
    assert np.percentile(found[1:], 2.5) < found[0] < np.percentile(found[1:], 97.5)


HAND_MADE = [[1, 1], [2, 1], [3, 1], [4, 0], [5, 1], [6, 0]]
"""Six patients by the time of death or of the end of observation."""


def test_a_higher_risk_of_who_dies_earlier_is_an_auc_of_one_and_the_opposite_zero():
    falling, rising = [6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6]
    for risk, expected in ((falling, 1.0), (rising, 0.0), ([1] * 6, 0.5)):
        given = items(risk, HAND_MADE)
        assert auc(given, weights(6), 3)[0] == expected
        assert survival_metrics("patient", given, ["risk"], weights(6))["", "c_index"][0] == expected


def test_a_higher_risk_is_a_smaller_predicted_share_without_the_event():
    card = SurvivalCard(times=[2.0, 4.0], cumulative_hazard=[0.2, 0.6], median_event_time=2.0)
    given = items([1.0, 0.0, -1.0] * 5, [[1, 1], [4, 1], [6, 0]] * 5)
    record = Horizon(3.0, {0: card}).record(given)
    assert [group.predicted for group in record.groups] == sorted(group.predicted for group in record.groups)
    assert record.groups[0].predicted == pytest.approx(math.exp(-0.4 * math.e))
    assert [group.observed for group in record.groups] == [0.0, 1.0, 1.0]


def test_risks_of_two_models_are_not_compared_at_a_time():
    risk = [2, 1, 12, 11]
    given = items(risk, [[1, 1], [3, 1], [1, 1], [4, 1]], fold=[0, 0, 1, 1])
    assert auc(given, weights(4), 2)[0] == 1


def test_the_share_without_the_event_is_that_of_kaplan_and_meier():
    _, target = cohort(80, 3)
    time, event = np.ceil(target[:, 0] * 5), target[:, 1]
    for horizon in (1, 3, 6):
        expected = ecdf(CensoredData(uncensored=time[event == 1], right=time[event == 0])).sf.evaluate(horizon)
        assert kaplan_meier(time, event, np.ones((1, 80)), horizon)[0] == pytest.approx(float(expected))


def test_true_hazards_are_calibrated_and_too_high_ones_are_not():
    risk, target = cohort(3000, 4)
    given, horizon = items(risk, target), Horizon.of(None, {0: survival_card(None, *cohort(3000, 5))})
    assert horizon.time == pytest.approx(np.median(target[target[:, 1] == 1, 0]), rel=0.1)
    found = horizon.metrics(given, weights(3000), calibrated=True)["", "calibration_at_horizon"]
    assert abs(found[0]) < 0.03
    for group in horizon.record(given).groups:
        assert group.predicted == pytest.approx(group.observed, abs=0.06)
    higher = horizon.metrics(items(risk + 1, target), weights(3000), calibrated=True)
    assert higher["", "calibration_at_horizon"][0] < -0.1


@pytest.mark.parametrize(
    ("target", "time", "no_auc", "no_calibration"),
    [
        ([[1, 0], [2, 0], [3, 0]], 2.0, "no event was observed until then", None),
        ([[1, 0], [2, 0], [3, 1]], 1.5, "no event was observed until then", None),
        ([[1, 1], [2, 1], [3, 1]], 5.0, "nobody was observed for longer", None),
        ([[1, 1], [2, 0], [3, 0]], 5.0, "nobody was observed for longer", "nobody was observed for that long"),
        ([[1, 1], [2, 0], [9, 0]], 8.0, None, "after the last event of the training"),
    ],
    ids=["no event", "censored before the first event", "all died", "too long", "after training"],
)
def test_what_is_not_defined_at_a_time_says_why(target, time, no_auc, no_calibration):
    card = SurvivalCard(times=[1.0, 6.0], cumulative_hazard=[0.1, 1.0], median_event_time=3.0)
    given, horizon = items([3, 2, 1], target), Horizon(time, {0: card})
    found, values = horizon.record(given), horizon.metrics(given, weights(3), calibrated=True)
    assert (found.no_auc is None, found.no_calibration is None) == (no_auc is None, no_calibration is None)
    assert (no_auc or "") in (found.no_auc or "")
    assert (no_calibration or "") in (found.no_calibration or "")
    assert np.isnan(values["", "auc_at_horizon"][0]) == (no_auc is not None)
    assert (("", "calibration_at_horizon") in values) == (no_calibration is None)


def test_models_that_do_not_say_what_a_risk_means_have_no_horizon():
    assert Horizon.of(2.0, {0: None}) is None
