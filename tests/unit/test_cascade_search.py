"""Tests of the threshold search: the rule, the Pareto front, and refused input."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from cascade_slide import discs, levels, truth_of
from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.records.cascade_thresholds import Parting
from histomake.cascade.answers import StoredAnswers
from histomake.cascade.fields import Field
from histomake.cascade.necks import NECKS_UM, choose_parting
from histomake.cascade.search import (
    Case,
    Trial,
    check_disjoint,
    choose,
    find_thresholds,
    open_cases,
    pareto_front,
    search_record,
    search_thresholds,
)
from histomake.config import CascadeSearch, CascadeThresholds, Radhical
from scipy import ndimage

SOME = CascadeThresholds(cut=0.5, lower=[0.1] * 3, upper=[0.9] * 3)


def trial(f, cost, work=0.5):
    return Trial(f, f, cost, cost, work, cost, SOME, "joint")


CUT = CascadeThresholds(cut=0.5, lower=[], upper=[])


def discs_in_pairs(*, distance):
    """Return numbers (96, 96) of two discs of 18 pixels, which touch at a distance of 16."""
    y, x = np.mgrid[:96, :96]
    first, second = ((y - 48) ** 2 + (x - 24 - dx) ** 2 <= 81 for dx in (0, distance))
    return np.where(first, 1, np.where(second, 2, 0)).astype(np.int32)


def searching(*, block_px=32, **values):
    """Return a cascade that searches its thresholds in blocks suitable for small images."""
    return Radhical(search=CascadeSearch(**values), block_px=block_px)


def case_of(labels, *, seed=0):
    """Return a slide whose maps are its ground truth, blurred and noisy, like the output of good networks."""
    rng = np.random.default_rng(seed)
    truth, grids = truth_of(labels), levels(*labels.shape)
    maps = {}
    for level in grids:
        share = truth.coverage(level, next(level.blocks(max(level.height, level.width))))
        noise = ndimage.gaussian_filter(rng.normal(0, 0.3, share.shape), 1)
        share = np.clip(ndimage.gaussian_filter(share, 0.7) + noise, 0, 1)
        p2 = share**4 if level.number > 1 else np.zeros_like(share)
        p1 = (share if level.number == 1 else np.sqrt(share)) - p2
        maps[level.number] = np.stack([np.clip(p1, 0, 1), p2]).astype(np.float32)
    return Case("discs", "patient", grids, StoredAnswers(maps), labels)


@pytest.fixture(scope="module")
def cases():
    return [case_of(discs(128, 128, seed=s)[1], seed=s) for s in range(2)]


def test_the_front_contains_the_trials_that_no_other_dominates():
    trials = [trial(0.5, 0.1), trial(0.4, 0.2), trial(0.8, 0.3), trial(0.8, 0.5), trial(0.9, 0.9), trial(0.45, 0.1)]
    assert [(t.f, t.cost) for t in pareto_front(trials)] == [(0.5, 0.1), (0.8, 0.3), (0.9, 0.9)]


def test_the_cheapest_within_the_allowed_loss_is_chosen():
    trials = [trial(0.80, 0.1), trial(0.88, 0.2), trial(0.89, 0.4), trial(0.90, 0.9)]
    chosen, rule = choose(trials, trial(0.90, 1), CascadeSearch(max_loss=0.02))
    assert (chosen.cost, rule) == (0.2, "max_loss")


def test_the_loss_is_the_larger_one_of_both_f_values():
    merged = Trial(0.89, 0.70, 0.1, 0.1, 0.1, 0.1, SOME, "joint")
    assert merged.loss(trial(0.90, 1)) == pytest.approx(0.2)
    chosen, _ = choose([merged, trial(0.89, 0.4)], trial(0.90, 1), CascadeSearch(max_loss=0.02))
    assert chosen.cost == 0.4


def test_a_required_saving_has_priority_over_the_allowed_loss():
    trials = [trial(0.80, 0.1), trial(0.82, 0.12), trial(0.88, 0.2), trial(0.90, 0.9)]
    chosen, rule = choose(trials, trial(0.90, 1), CascadeSearch(max_loss=0.02, min_saving=0.85))
    assert (chosen.cost, rule) == (0.12, "min_saving")
    chosen, rule = choose(trials, trial(0.90, 1), CascadeSearch(max_loss=0, min_saving=0.95))
    assert (chosen.cost, rule) == (0.1, "cheapest")


@pytest.mark.parametrize("wanted", [{}, {"min_saving": 0.5}])
def test_the_dense_network_is_used_if_no_thresholds_need_fewer_multiply_adds(wanted):
    dense = trial(0.90, 1.0, work=1.0)
    trials = [trial(0.90, 0.3, work=1.9), trial(0.85, 0.2, work=1.0)]
    assert choose(trials, dense, CascadeSearch(max_loss=0.02, **wanted)) == (dense, "dense")


def test_the_dense_network_is_used_if_what_needs_fewer_multiply_adds_loses_too_much(caplog):
    dense = trial(0.90, 1.0, work=1.0)
    trials = [trial(0.90, 0.3, work=1.9), trial(0.70, 0.2, work=0.4)]
    assert choose(trials, dense, CascadeSearch(max_loss=0.02)) == (dense, "dense")
    assert "a cascade costs 1.90 times as much" in caplog.text
    chosen, rule = choose(trials, dense, CascadeSearch(max_loss=0.02, min_saving=0.5))
    assert (chosen.f, rule) == (0.70, "min_saving")


def test_only_thresholds_that_need_fewer_multiply_adds_are_chosen():
    trials = [trial(0.90, 0.3, work=1.9), trial(0.89, 0.4, work=0.8)]
    chosen, rule = choose(trials, trial(0.90, 1.0, work=1.0), CascadeSearch(max_loss=0.02))
    assert (chosen.cost, rule) == (0.4, "max_loss")


def test_fields_full_of_nuclei_are_left_to_the_dense_network():
    """Every block has nuclei, so that a cascade computes all of level 1 and the coarse levels too."""
    labels = np.arange(1, 16 * 16 + 1, dtype=np.int32).reshape(16, 16).repeat(8, 0).repeat(8, 1)
    labels[::8], labels[:, ::8] = 0, 0
    result = search_thresholds([case_of(labels)], searching(max_loss=0.0, candidates=6, joint=10), seed=0)
    assert (result.chosen, result.rule) == (result.dense, "dense")
    record = search_record(result, Parting())
    assert (record.thresholds.lower, record.thresholds.upper) == ([], [])
    assert "dense network is used" in record.remark
    assert result.table().chosen.sum() == 1


def test_the_search_saves_most_pixels_at_a_small_loss():
    sparse = case_of(discs(512, 512)[1])
    result = search_thresholds([sparse], searching(block_px=128, max_loss=0.02, candidates=8, joint=10), seed=0)
    assert result.dense.pixel_f > 0.9
    assert result.chosen.loss(result.dense) <= 0.02
    assert result.chosen.cost < 0.6
    table = result.table()
    assert table.chosen.sum() == 1
    assert table.on_front.any()
    assert msgspec.to_builtins(search_record(result, Parting()).thresholds) == result.chosen.thresholds.dump()


def test_the_search_is_repeatable_and_the_joint_search_only_adds_trials(cases):
    few = search_thresholds(cases[:1], searching(candidates=6, joint=10), seed=3)
    again = search_thresholds(cases[:1], searching(candidates=6, joint=10), seed=3)
    assert [t.thresholds for t in few.trials] == [t.thresholds for t in again.trials]
    alone = search_thresholds(cases[:1], searching(candidates=6, joint=0), seed=3)
    assert few.chosen.cost <= alone.chosen.cost


def test_thresholds_can_be_chosen_by_the_number_of_skipped_blocks(cases):
    by_blocks = search_thresholds(cases, searching(cost="blocks", max_loss=0.05, candidates=12, joint=30), seed=0)
    by_pixels = search_thresholds(cases, searching(max_loss=0.05, candidates=12, joint=30), seed=0)
    assert by_blocks.chosen.cost == (by_blocks.chosen.computed + by_blocks.chosen.evaluated) / 2
    assert by_pixels.chosen.cost == by_pixels.chosen.evaluated
    assert by_blocks.chosen.computed <= by_pixels.chosen.computed


def test_the_neck_with_the_best_objects_on_validation_patients_is_chosen():
    single, touching = discs_in_pairs(distance=40), discs_in_pairs(distance=16)
    apart, parted = (choose_parting([case_of(labels)], CUT, Radhical(scales=[1])) for labels in (single, touching))
    assert [trial.neck_um for trial in parted.tried] == list(NECKS_UM)
    assert parted.neck_um is not None
    assert parted.tried[0].object_f1 < max(trial.object_f1 for trial in parted.tried) == 1
    assert apart.neck_um is None, "of equal values the one that parts least"


def test_the_neck_is_chosen_by_means_over_patients_not_slides():
    """One patient's many slides with necks do not outvote two patients whose nuclei are irregular."""
    necked, whole = discs_in_pairs(distance=16), (discs_in_pairs(distance=16) > 0).astype(np.int32)
    cases = [replace(case_of(necked), patient_id="many") for _ in range(5)]
    cases += [replace(case_of(whole), patient_id=name) for name in ("a", "b")]
    assert choose_parting(cases, CUT, Radhical(scales=[1])).neck_um is None


@pytest.mark.parametrize("neck_um", [0.75, None])
def test_a_neck_in_the_configuration_is_scored_and_used(neck_um):
    parting = choose_parting([case_of(discs_in_pairs(distance=16))], CUT, Radhical(scales=[1], neck_um=neck_um))
    assert (parting.neck_um, [trial.neck_um for trial in parting.tried]) == (neck_um, [neck_um])


def test_given_thresholds_are_scored_and_used(cases):
    result = find_thresholds(cases, Radhical(thresholds=SOME), seed=0)
    assert (result.chosen.thresholds, result.rule) == (SOME, "given")
    assert 0 < result.chosen.f <= 1


def test_validation_patients_that_are_test_patients_are_refused():
    check_disjoint(["a", "b"], ["c"])
    with pytest.raises(ConfigError, match="both validation and test: b, c"):
        check_disjoint(["a", "b", "c"], ["c", "b"])


def test_validation_without_a_nucleus_is_refused():
    empty = case_of(np.zeros((64, 64), np.int32))
    with pytest.raises(HistomakeError, match="no validation slide has an annotated nucleus"):
        search_thresholds([empty], searching(), seed=0)


@pytest.mark.parametrize(
    "thresholds",
    [
        {"cut": 1.2, "lower": [0] * 3, "upper": [1] * 3},
        {"cut": 0.5, "lower": [0] * 3, "upper": [1, 1, -0.1]},
        {"cut": 0.5, "lower": [0] * 2, "upper": [1] * 3},
    ],
)
def test_thresholds_outside_0_to_1_or_for_other_levels_are_refused(thresholds):
    with pytest.raises(ValueError, match="thresholds"):
        Radhical.model_validate({"thresholds": thresholds})


def test_a_validation_slide_without_maps_is_left_out(tmp_path):
    grids, truth = levels(64, 64), truth_of(np.zeros((64, 64), np.uint16))
    maps = {f"level{level.number}": np.zeros((level.height, level.width), np.float32) for level in grids}
    np.savez(tmp_path / "whole.npz", **maps)
    np.savez(tmp_path / "damaged.npz")
    fields = [Field(name, None, grids, truth) for name in ("damaged", "whole")]
    paths, patients = [tmp_path / "whole.npz", tmp_path / "damaged.npz"], {"whole": "P1", "damaged": "P2"}
    assert [case.slide_id for case in open_cases(fields, paths, patients)] == ["whole"]
    with pytest.raises(HistomakeError, match="no validation slide has maps"):
        open_cases(fields[:1], paths, patients)
