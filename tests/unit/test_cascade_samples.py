"""Points, kinds and crops: RADHicaL's classes, drawn from coordinates, repeatably."""

from __future__ import annotations

import numpy as np
import pytest
from cascade_slide import DiscReader, discs, levels, truth_of
from histomake.base.errors import HistomakeError
from histomake.base.windows import Window
from histomake.cascade.fields import Field
from histomake.cascade.samples import (
    BACKGROUND,
    IGNORED,
    INSIDE,
    THIRD,
    CropLayout,
    class_of,
    draw_points,
    kind_shares,
    kinds,
    read_batch,
    safe_background,
)
from histomake.config import CascadeTrain
from scipy import ndimage


@pytest.fixture
def field():
    image, labels = discs(160, 200)
    return Field("discs", DiscReader(image), levels(160, 200), truth_of(labels))


def test_level_1_distinguishes_nuclei_their_ring_and_background(field):
    level = field.levels[0]
    found = kinds(field.truth, level, Window(0, 0, level.height, level.width))
    mask = field.truth.whole() > 0
    ring = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=3) & ~mask
    np.testing.assert_array_equal(found, np.where(mask, INSIDE, np.where(ring, THIRD, BACKGROUND)))
    assert class_of(np.array([BACKGROUND, INSIDE, THIRD, IGNORED]), 1).tolist() == [0, 1, 0, IGNORED]


def test_coarser_levels_distinguish_mixed_and_whole_by_coverage():
    labels = np.zeros((40, 40), np.int32)
    labels[0:20, 0:20] = 1
    labels[1, 1] = 0
    labels[30, 30] = 2
    found = kinds(truth_of(labels), levels(40, 40)[3], Window(0, 0, 4, 4))
    # 99 % covered is mixed: the paper's rounding lost exactly this value.
    assert found[:2, :2].tolist() == [[INSIDE, THIRD], [THIRD, THIRD]]
    assert (found[3, 3], found[2, 2]) == (INSIDE, BACKGROUND)
    assert class_of(np.array([BACKGROUND, INSIDE, THIRD]), 4).tolist() == [0, 1, 2]


def test_points_are_drawn_per_class_and_repeatably(field):
    config = CascadeTrain(per_class=50, background=20)
    points = draw_points([field, field], 1, config, seed=5)
    assert np.bincount(points.kind).tolist() == [40, 100, 100]
    assert [np.bincount(points.field[points.kind == k]).tolist() for k in range(3)] == [[20, 20], [50, 50], [50, 50]]
    again = draw_points([field, field], 1, config, seed=5)
    np.testing.assert_array_equal(points.y, again.y)
    assert not np.array_equal(points.y, draw_points([field, field], 1, config, seed=6).y)
    whole = kinds(field.truth, field.levels[0], Window(0, 0, 160, 200))
    np.testing.assert_array_equal(whole[points.y, points.x], points.kind)


def test_the_shares_of_classes_are_the_papers():
    np.testing.assert_allclose(kind_shares(CascadeTrain(), 1), np.array([150, 500, 500]) / 1150, rtol=1e-6)
    np.testing.assert_allclose(kind_shares(CascadeTrain(), 3), np.full(3, 1 / 3), rtol=1e-6)


@pytest.mark.parametrize("labels", [np.zeros((64, 64), np.int32), np.ones((64, 64), np.int32)])
def test_images_with_a_single_class_are_refused_with_their_names(labels):
    image = np.full((64, 64, 3), 200, np.uint8)
    alone = Field("blank", DiscReader(image), levels(64, 64), truth_of(labels))
    with pytest.raises(HistomakeError, match="blank"):
        draw_points([alone], 1, CascadeTrain(), seed=0)


@pytest.mark.parametrize("places", [range(33, 33 + 8 * 4, 8), range(16, 24, 8)])
def test_a_crops_labels_lie_where_its_pixels_do(field, places):
    # The red channel shows the truth itself, so a label can be read off the pixel it belongs to.
    image = np.repeat((field.truth.whole() > 0)[..., None] * np.uint8(255), 3, axis=2)
    field = Field("marked", DiscReader(image), field.levels, field.truth)
    edge = places[0] + places[-1] + (1 if len(places) > 1 else 0)
    layout = CropLayout(edge, places)
    points = draw_points([field], 1, CascadeTrain(per_class=40, background=40), seed=1)
    chosen = np.arange(len(points))
    crops, labels = read_batch([field], points, chosen, 1, layout, complete=True, rng=np.random.default_rng(0))
    shown = crops[:, list(places)][:, :, list(places), 0] > 127
    known = labels != IGNORED
    np.testing.assert_array_equal(shown[known], labels[known] == INSIDE)
    assert (labels == IGNORED).any() == (len(places) > 1)


def test_with_incomplete_annotation_only_safe_points_are_background(field):
    image, labels = discs(160, 200)
    half = np.where(labels % 2 == 0, labels, 0)
    partly = Field("partly", DiscReader(image), levels(160, 200), truth_of(half))
    config = CascadeTrain(per_class=100, background=100, complete=False)
    points = draw_points([partly], 1, config, seed=0)
    background = points.kind == BACKGROUND
    assert background.any()
    assert (labels[points.y[background], points.x[background]] == 0).all()
    layout = CropLayout(33 * 2 + 1 + 8 * 3, range(33, 33 + 32, 8))
    _, kind = read_batch(
        [partly], points, np.arange(len(points)), 1, layout, complete=False, rng=np.random.default_rng(0)
    )
    assert (kind == BACKGROUND).sum() == background.sum()


def test_safe_background_keeps_away_from_dark_pixels_but_not_from_specks():
    dark = np.zeros((160, 200), bool)
    dark[40:70, 40:100] = True
    speck = np.zeros_like(dark)
    speck[120:125, 150:155] = True
    image = np.where((dark | speck)[..., None], (90, 40, 120), (240, 238, 242)).astype(np.uint8)
    safe = safe_background(image)
    distance = ndimage.distance_transform_cdt(~dark, metric="chessboard")
    assert not safe[distance <= 24].any()
    assert safe[distance > 25].all()
