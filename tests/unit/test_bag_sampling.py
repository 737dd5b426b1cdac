"""Sampling of the patches of a bag: what is drawn, and that it is a function of seed, step and slot."""

from __future__ import annotations

import numpy as np
import pytest
from histomake.bags.sampling import SAMPLERS, BagPatches, BagSampler, curve_positions


def patches(count: int = 1000, *, containing: int = 0) -> BagPatches:
    x, y = np.arange(count) % 40, np.arange(count) // 40
    group = np.where(np.arange(count) < count // 10, 0, 1)
    marked = np.zeros(count, bool)
    marked[:containing] = True
    return BagPatches(curve_positions(np.zeros(count, int), x, y), group, {"nuclei": marked})


def sampler(name: str, size: int = 100, seed: int = 7, **containing: float) -> BagSampler:
    return BagSampler(seed, name, size, containing)


@pytest.mark.parametrize("name", SAMPLERS)
def test_drawn_patches_are_different_and_ascend(name: str):
    drawn = sampler(name).draw(patches(), step=3, slot=2)
    assert len(drawn) == 100
    assert (np.diff(drawn) > 0).all()
    assert 0 <= drawn[0] < drawn[-1] < 1000


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_draw_depends_on_seed_step_and_slot_alone(name: str):
    first = sampler(name).draw(patches(), step=3, slot=2)
    assert np.array_equal(first, sampler(name).draw(patches(), step=3, slot=2))
    for seed, step, slot in ((8, 3, 2), (7, 4, 2), (7, 3, 1)):
        assert not np.array_equal(first, sampler(name, seed=seed).draw(patches(), step=step, slot=slot))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_bag_that_is_not_larger_is_used_whole(name: str):
    assert np.array_equal(sampler(name).draw(patches(80), step=0, slot=0), np.arange(80))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_patch_is_drawn_at_some_time(name: str):
    found = np.zeros(1000, int)
    for step in range(150):
        found[sampler(name).draw(patches(), step=step, slot=0)] += 1
    assert found.all()


def test_random_draws_all_patches_equally_often():
    found = np.zeros(200, int)
    for step in range(2000):
        found[sampler("random", 20).draw(patches(200), step=step, slot=0)] += 1
    assert abs(found / 2000 - 0.1).max() < 0.04


def test_spread_takes_one_patch_from_every_part_of_the_curve():
    given = patches()
    drawn = sampler("spread").draw(given, step=1, slot=0)
    assert np.array_equal(np.sort(given.along[drawn]) // 10, np.arange(100))


def test_clusters_are_drawn_equally_and_larger_ones_fill_what_small_ones_lack():
    given = patches()
    drawn = sampler("cluster").draw(given, step=1, slot=0)
    assert np.bincount(given.group[drawn]).tolist() == [50, 50]
    most = sampler("cluster", 300).draw(given, step=1, slot=0)
    assert np.bincount(given.group[most]).tolist() == [100, 200]


def test_the_wanted_share_of_patches_contains_a_structure():
    given = patches(containing=60)
    drawn = sampler("random", nuclei=0.4).draw(given, step=1, slot=0)
    assert given.containing["nuclei"][drawn].sum() >= 40
    assert given.containing["nuclei"][sampler("spread", nuclei=0.9).draw(given, step=1, slot=0)].sum() == 60


def test_neighbours_on_the_curve_are_neighbours_on_the_slide():
    given = patches()
    order = np.argsort(given.along)
    distance = np.abs(np.diff(order % 40)) + np.abs(np.diff(order // 40))
    assert np.median(distance) <= 2


def test_the_curve_runs_through_one_slide_after_another():
    slide = np.array([1, 0, 1, 0])
    assert np.array_equal(slide[np.argsort(curve_positions(slide, np.arange(4), np.arange(4)))], [0, 0, 1, 1])
