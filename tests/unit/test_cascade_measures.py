"""Tests of nucleus scores: RADHicaL's measures, and measures that count every error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from histomake.cascade.measures import otsu_nuclei, score


def two_nuclei():
    truth = np.zeros((20, 40), np.int32)
    truth[4:14, 4:14] = 1  # 100 pixels
    truth[4:14, 20:30] = 2
    return truth


def test_a_perfect_segmentation_scores_1():
    truth = two_nuclei()
    found = score(truth * 7, truth, complete=True)
    values = (found.f, found.tpr, found.ppv, found.detected, found.pixel_f, found.aji, found.pq, found.object_f1)
    assert values == (1,) * 8
    assert found.count_error == 0


def test_radhical_measures_compare_a_nucleus_with_all_objects_that_overlap_it():
    truth = two_nuclei()
    merged = np.zeros_like(truth)
    merged[4:14, 4:30] = 1  # 260 pixels over both nuclei
    found = score(merged, truth, complete=True)
    # Per nucleus: TP 100, FP 160 (including the neighbour), FN 0.
    assert found.f == pytest.approx(200 / 360)
    assert (found.tpr, found.ppv, found.detected) == (1, pytest.approx(100 / 260), 1)
    assert found.object_f1 == 0
    assert found.count_error == 0.5
    assert found.aji == pytest.approx(100 * 2 / (260 * 2))


def test_detected_needs_more_than_half():
    truth = two_nuclei()
    half = np.where(np.arange(20)[:, None] < 9, truth, 0)
    assert score(half, truth, complete=True).detected == 0
    more = np.where(np.arange(20)[:, None] < 10, truth, 0)
    assert score(more, truth, complete=True).detected == 1


def test_objects_without_overlap_count_only_in_the_other_measures():
    truth = two_nuclei()
    found = truth.copy()
    found[16:20, 0:25] = 3  # 100 pixels
    complete, incomplete = score(found, truth, complete=True), score(found, truth, complete=False)
    assert complete.f == incomplete.f == 1
    assert complete.pixel_f == pytest.approx(400 / 500)
    assert complete.aji == pytest.approx(200 / 300)
    assert complete.pq == complete.object_f1 == pytest.approx(2 / 2.5)
    assert (incomplete.pixel_f, incomplete.aji, incomplete.pq, incomplete.object_f1) == (1, 1, 1, 1)


def test_panoptic_quality_equals_a_manual_calculation():
    truth = two_nuclei()
    found = np.zeros_like(truth)
    found[4:14, 4:12] = 1  # IoU 0.8 with nucleus 1; nucleus 2 is missed
    scores = score(found, truth, complete=True)
    assert scores.pq == pytest.approx(0.8 / 1.5)
    assert scores.object_f1 == pytest.approx(1 / 1.5)
    assert scores.aji == pytest.approx(80 / 200)


def test_without_objects_scores_are_0_and_without_annotation_undefined():
    truth = two_nuclei()
    nothing = score(np.zeros_like(truth), truth, complete=True)
    assert (nothing.f, nothing.pixel_f, nothing.aji, nothing.pq, nothing.detected) == (0, 0, 0, 0, 0)
    empty = score(truth, np.zeros_like(truth), complete=True)
    assert all(math.isnan(v) for v in (empty.f, empty.pixel_f, empty.aji, empty.pq))


def test_otsu_finds_dark_blue_and_nothing_in_a_blank_image():
    image = np.full((30, 30, 3), 240, np.uint8)
    assert not otsu_nuclei(image).any()
    image[5:15, 5:15] = (70, 50, 140)
    np.testing.assert_array_equal(otsu_nuclei(image), (image[..., 0] == 70))
