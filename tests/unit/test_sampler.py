"""Tests of patch sampling: reproducible draws with the configured balance."""

from __future__ import annotations

import numpy as np
import pytest
from histomake.base.rng import counter_rng
from histomake.patch.sampler import Sampler, balance_weights, choose, mix_containing
from hypothesis import given
from hypothesis import strategies as st

counters = st.integers(0, 2**31)


@given(seed=counters, worker=st.integers(0, 64), step=counters)
def test_a_draw_depends_only_on_seed_worker_and_step(seed: int, worker: int, step: int) -> None:
    sampler = Sampler.from_weights(np.ones(1000), seed=seed)
    sampler.draw(step + 1, 8, worker=worker)
    again = Sampler.from_weights(np.ones(1000), seed=seed)
    assert np.array_equal(sampler.draw(step, 8, worker=worker), again.draw(step, 8, worker=worker))


def test_adjacent_counters_give_different_streams() -> None:
    streams = [
        counter_rng(seed, worker=worker, step=step, stream=stream).random(4)
        for seed in (0, 1)
        for worker in (0, 1)
        for step in (0, 1)
        for stream in (0, 1)
    ]
    assert len({tuple(numbers) for numbers in streams}) == 16


def test_area_balance_draws_all_patches_with_equal_probability() -> None:
    weights = balance_weights(slide=np.array([0, 0, 0, 1]), group=np.array([0, 0, 0, 1]), balance="area")
    assert weights == pytest.approx([0.25] * 4)


def test_slide_balance_gives_each_slide_the_same_total() -> None:
    weights = balance_weights(slide=np.array([0, 0, 0, 1]), group=np.zeros(4, int), balance="slide")
    assert weights == pytest.approx([1 / 6] * 3 + [0.5])


def test_class_balance_gives_each_class_the_same_total_and_leaves_out_unlabelled_patches() -> None:
    weights = balance_weights(slide=np.zeros(5, int), group=np.array([0, 0, 0, 1, -1]), balance="class")
    assert weights == pytest.approx([1 / 6] * 3 + [0.5, 0])


def test_class_shares_are_respected() -> None:
    weights = balance_weights(
        slide=np.zeros(4, int), group=np.array([0, 0, 0, 1]), balance="class", shares={0: 0.9, 1: 0.1}
    )
    assert weights == pytest.approx([0.3, 0.3, 0.3, 0.1])


def test_classes_without_a_share_have_the_rest_equally() -> None:
    """Before, {nuclei: 0.3} drew nothing but nuclei."""
    group = np.array([0, 0, 1, 2, 2, 2])
    weights = balance_weights(slide=np.zeros(6, int), group=group, balance="class", shares={0: 0.4})
    assert [weights[group == key].sum() for key in range(3)] == pytest.approx([0.4, 0.3, 0.3])


@pytest.mark.parametrize(
    ("shares", "message"), [({0: 0.5, 7: 0.5}, "no patch of class 7"), ({0: 0.5, 1: 0.3}, "sum to 0.8")]
)
def test_shares_that_the_patches_cannot_have_are_an_error(shares, message) -> None:
    with pytest.raises(ValueError, match=message):
        balance_weights(slide=np.zeros(2, int), group=np.array([0, 1]), balance="class", shares=shares)


def test_the_classes_drawn_follow_the_shares() -> None:
    group = np.repeat([0, 1], [9900, 100])
    weights = balance_weights(slide=np.zeros(10000, int), group=group, balance="class", shares={0: 0.7, 1: 0.3})
    sampler = Sampler.from_weights(weights, seed=3)
    drawn = np.concatenate([group[sampler.draw(step, 64)] for step in range(200)])
    assert drawn.mean() == pytest.approx(0.3, abs=0.02)


def test_rare_structures_are_drawn_with_their_share() -> None:
    contains = np.zeros(1000, bool)
    contains[7] = True
    weights = mix_containing(np.full(1000, 1 / 1000), [(contains, 0.25)])
    assert weights.sum() == pytest.approx(1)
    assert weights[7] == pytest.approx(0.25 + 0.75 / 1000)


def test_each_of_several_rare_structures_gets_its_share() -> None:
    weights = mix_containing(np.full(1000, 1 / 1000), [(np.arange(1000) == 7, 0.25), (np.arange(1000) == 8, 0.35)])
    assert weights.sum() == pytest.approx(1)
    assert weights[[7, 8]] == pytest.approx(np.array([0.25, 0.35]) + 0.4 / 1000)


def test_a_structure_that_no_patch_contains_is_an_error() -> None:
    with pytest.raises(ValueError, match="no patch contains"):
        mix_containing(np.ones(3) / 3, [(np.zeros(3, bool), 0.5)])


@given(weights=st.lists(st.floats(0, 1e6), min_size=1, max_size=50).filter(lambda w: sum(w) > 1e-3))
def test_patches_of_weight_zero_are_never_drawn(weights: list[float]) -> None:
    sampler = Sampler.from_weights(np.array(weights), seed=0)
    drawn = sampler.draw(0, 200)
    assert all(weights[i] > 0 for i in drawn)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [np.nan]])
def test_a_sampler_without_positive_weights_is_an_error(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="no patch"):
        Sampler.from_weights(np.array(weights), seed=0)


def test_a_replacement_draw_differs_by_attempt_and_is_repeatable() -> None:
    sampler = Sampler.from_weights(np.ones(10**6), seed=5)
    draws = [sampler.redraw(9, worker=0, slot=3, attempt=attempt) for attempt in range(4)]
    assert len(set(draws)) == 4
    assert draws == [sampler.redraw(9, worker=0, slot=3, attempt=attempt) for attempt in range(4)]


def test_a_chosen_subset_is_fixed_sorted_and_without_repeats() -> None:
    subset = choose(50, 1000, seed=1)
    assert len(set(subset.tolist())) == 50
    assert np.array_equal(subset, np.sort(subset))
    assert np.array_equal(subset, choose(50, 1000, seed=1))
    assert len(choose(50, 20, seed=1)) == 20
