"""Distances between sets of images: KID and FID against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from histomake.generate.realism import fid, kid
from hypothesis import given
from hypothesis import strategies as st


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_kid_has_the_value_that_is_computed_by_hand():
    """d = 1, so the kernel is (xy + 1)^3: within {0, 1} 1, within {2, 3} 343, between 1, 1, 27, 64."""
    assert kid([[0], [1]], [[2], [3]], rng()).value == pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4)


def test_kid_is_the_mean_over_pairs_of_different_images():
    draw = rng()
    a, b = draw.normal(size=(7, 5)), draw.normal(0.5, size=(9, 5))

    def kernel(x, y):
        return (x @ y / 5 + 1) ** 3

    within_a = np.mean([kernel(a[i], a[j]) for i in range(7) for j in range(7) if i != j])
    within_b = np.mean([kernel(b[i], b[j]) for i in range(9) for j in range(9) if i != j])
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert kid(a, b, rng()).value == pytest.approx(within_a + within_b - 2 * between)


def test_kid_of_samples_of_one_distribution_is_zero_on_average():
    draw = rng()
    values = [kid(draw.normal(size=(20, 4)), draw.normal(size=(20, 4)), draw, resamples=1).value for _ in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_the_interval_of_kid_contains_a_clear_distance_and_excludes_zero():
    draw = rng()
    found = kid(draw.normal(size=(60, 4)), draw.normal(2, size=(60, 4)), draw)
    assert 0 < found.interval[0] < found.value < found.interval[1]


def test_images_of_one_patient_are_drawn_together():
    """All images of a patient are alike: as groups they tell less than as images of 30 patients."""
    draw = rng()
    patients = np.repeat(np.arange(5), 6)
    a = draw.normal(size=(5, 3))[patients] + draw.normal(0, 0.01, (30, 3))
    b = draw.normal(1, 0.01, size=(30, 3))
    narrow, wide = kid(a, b, rng()).interval, kid(a, b, rng(), groups_a=patients).interval
    assert wide[1] - wide[0] > 1.2 * (narrow[1] - narrow[0])


def test_images_of_a_single_patient_give_no_interval():
    assert kid(np.eye(3), np.eye(3) + 1, rng(), groups_a=["p", "p", "p"]).interval is None


def test_fid_of_known_moments_is_computed_by_hand():
    """Means 0 and 3, variances 2 and 8: 9 + 2 + 8 - 2 * 4."""
    assert fid([[-1], [1]], [[1], [5]]) == pytest.approx(9 + 2 + 8 - 2 * 4)


def test_fid_is_that_of_the_matrix_root():
    from scipy.linalg import sqrtm

    draw = rng()
    a, b = draw.normal(size=(40, 6)), draw.normal(0.3, 2, size=(50, 6))
    shift, c, d = a.mean(0) - b.mean(0), np.cov(a.T), np.cov(b.T)
    assert fid(a, b) == pytest.approx(shift @ shift + np.trace(c + d - 2 * sqrtm(c @ d).real))


def test_fid_works_with_fewer_images_than_features():
    draw = rng()
    a = draw.normal(size=(5, 100))
    assert fid(a, a + 1) == pytest.approx(100)


@given(st.integers(2, 6), st.integers(2, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_distances_do_not_depend_on_the_order_of_sets_or_images(n, m, width, seed):
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(n, width)), draw.normal(size=(m, width))
    turned = kid(b, draw.permutation(a), draw, resamples=1).value
    assert kid(a, b, draw, resamples=1).value == pytest.approx(turned, abs=1e-9)
    assert fid(a, b) == pytest.approx(fid(b, draw.permutation(a)), abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (np.zeros((1, 2)), np.zeros((3, 2)), "at least 2"),
        (np.zeros((3, 2)), np.zeros((3, 4)), "cannot be compared"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), "not finite"),
    ],
)
def test_sets_without_a_distance_are_refused(a, b, said):
    with pytest.raises(ValueError, match=said):
        kid(a, b, rng())
    with pytest.raises(ValueError, match=said):
        fid(a, b)
