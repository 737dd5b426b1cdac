"""Tests of the cascade: its decisions, independence of blocks, and equality of simulation and deployment."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from cascade_slide import DiscReader, discs, levels, random_networks
from histomake.base.windows import Window
from histomake.cascade.answers import NetworkAnswers, StoredAnswers, patch_by_patch
from histomake.cascade.infer import whole_labels, whole_maps
from histomake.cascade.net import build_network
from histomake.cascade.run import ACCEPTED, COMPUTED, REJECTED, costs, decide, nuclei, pixel_evaluations, run_cascade
from histomake.config import CascadeNetwork, CascadeThresholds
from hypothesis import example, given, settings
from hypothesis import strategies as st

CPU = torch.device("cpu")
EVERYTHING = CascadeThresholds(cut=0.5, lower=[0, 0, 0], upper=[1, 1, 1])


def state(p1, p2, *, lower, upper, inherited=False):
    p = np.array([[[p1]], [[p2]]], np.float32)
    return int(decide(p, np.array([[inherited]]), lower=lower, upper=upper)[0, 0])


@pytest.mark.parametrize(
    ("p1", "p2", "lower", "upper", "expected"),
    [
        (0.02, 0.65, 0.733, 0.61, ACCEPTED),  # the published thresholds: accepted although 1 - p0 is below lower
        (0.5, 0.25, 0.5, 0.5, COMPUTED),
        (0.25, 0.125, 0.5, 0.5, REJECTED),
        (0.25, 0.25, 0.5, 0.75, COMPUTED),  # equal to lower
        (0.0, 0.75, 0.5, 0.75, ACCEPTED),  # equal to upper
        (0.9, 0.05, 0.5, 0.5, COMPUTED),  # upper applies to p2 only
        (0.001, 0.0, 0.0, 1.0, COMPUTED),  # with lower 0 every pixel above zero is computed
        (0.0, 0.0, 0.0, 1.0, REJECTED),
    ],
)
def test_accept_compute_reject(p1, p2, lower, upper, expected):
    assert state(p1, p2, lower=lower, upper=upper) == expected


def test_accepted_pixels_stay_accepted():
    assert state(0.0, 0.0, lower=0.9, upper=1.0, inherited=True) == ACCEPTED


def stored(height=96, width=120, seed=0):
    """Levels of a slide and random maps for them, as smooth as those of networks."""
    rng = np.random.default_rng(seed)
    grids = levels(height, width)
    maps = {}
    for level in grids:
        p = rng.dirichlet((0.5, 0.3, 0.3), (level.height, level.width)).astype(np.float32)
        maps[level.number] = np.ascontiguousarray(p[..., 1:].transpose(2, 0, 1))
    return grids, StoredAnswers(maps)


thresholds = st.builds(
    lambda cut, lower, upper: CascadeThresholds(cut=cut, lower=lower, upper=upper),
    st.floats(0, 1),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
)


@settings(max_examples=30, deadline=None)
@given(chosen=thresholds, block=st.sampled_from([16, 32, 200]), seed=st.integers(0, 9))
@example(chosen=CascadeThresholds(cut=0, lower=[0, 0, 0.9], upper=[0, 0, 1]), block=16, seed=0)
def test_the_block_size_does_not_affect_the_result(chosen, block, seed):
    grids, answers = stored(seed=seed)
    for one, other in zip(
        run_cascade(grids, answers, chosen, block=24), run_cascade(grids, answers, chosen, block=block), strict=True
    ):
        np.testing.assert_array_equal(one.state, other.state)
        np.testing.assert_array_equal(one.p, other.p)


@settings(max_examples=30, deadline=None)
@given(chosen=thresholds, seed=st.integers(0, 9))
def test_every_pixel_is_computed_accepted_or_rejected_and_acceptance_is_inherited(chosen, seed):
    grids, answers = stored(seed=seed)
    maps = run_cascade(grids, answers, chosen, block=32)
    for coarse, fine in pairwise(maps):
        ratio = coarse.level.mpp / fine.level.mpp
        y = np.minimum(((np.arange(fine.level.height) + 0.5) / ratio).astype(int), coarse.level.height - 1)
        x = np.minimum(((np.arange(fine.level.width) + 0.5) / ratio).astype(int), coarse.level.width - 1)
        assert (fine.state[coarse.state[np.ix_(y, x)] == ACCEPTED] == ACCEPTED).all()
        assert (fine.p.sum(0)[fine.state == REJECTED] == 0).all()
        assert (fine.p[1][fine.state == ACCEPTED] == 1).all()
    for cost in costs(maps):
        assert cost.computed + cost.accepted + cost.rejected == cost.pixels


def test_open_thresholds_compute_everything_and_closed_ones_only_the_coarsest_level():
    grids, answers = stored()
    assert [c.computed for c in costs(run_cascade(grids, answers, EVERYTHING, block=32))] == [g.pixels for g in grids]
    closed = CascadeThresholds(cut=0.5, lower=[1, 1, 1], upper=[1, 1, 1])
    found = costs(run_cascade(grids, answers, closed, block=32))
    assert pixel_evaluations(found) == grids[-1].pixels


def test_the_final_mask_is_p1_above_the_cut_or_accepted():
    grids, answers = stored()
    finest = run_cascade(grids, answers, CascadeThresholds(cut=0.4, lower=[0.3] * 3, upper=[0.6] * 3), block=32)[-1]
    mask = nuclei(finest, Window(0, 0, grids[0].height, grids[0].width), cut=0.4)
    expected = ((finest.p[0] > 0.4) & (finest.state == COMPUTED)) | (finest.state == ACCEPTED)
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("edge", [32, 64, 128])
def test_blocks_are_equal_multiples_of_8_that_cover_the_level(edge):
    for level in levels(200, 324):
        height, width = level.block_shape(edge)
        assert height % 8 == width % 8 == 0
        assert max(height, width) <= edge
        blocks = list(level.blocks(height, width))
        assert sum(b.height * b.width for b in blocks) == level.pixels
        assert len(blocks) == -(-level.height // edge) * -(-level.width // edge)


def test_dense_maps_of_an_encoder_decoder_equal_its_patch_wise_outputs():
    torch.manual_seed(0)
    image, _ = discs(100, 90)
    reader, finest = DiscReader(image), levels(100, 90)[0]
    net = build_network(CascadeNetwork(name="unet", encoder="tu-resnet10t")).eval()
    (dense,) = whole_maps(NetworkAnswers(reader, {1: net}, 64, CPU), [finest]).values()
    pixels = [(0, 0), (99, 89), (50, 1), (37, 44)]
    found = patch_by_patch(reader, finest, net, pixels, batch=3)
    np.testing.assert_allclose(np.array([dense[:, y, x] for y, x in pixels]), found[:, 1:], atol=1e-5)


@pytest.fixture(scope="module")
def deployed():
    """A slide, its levels, networks on it, and maps of all levels."""
    image, _ = discs(200, 180)
    reader, grids = DiscReader(image), levels(200, 180)
    answers = NetworkAnswers(reader, random_networks(), 64, CPU)
    return reader, grids, answers, whole_maps(answers, grids)


def middling(maps):
    """Return thresholds that leave pixels to every level, from medians of the maps."""
    low = [float(np.median(maps[n].sum(0))) for n in (2, 3, 4)]
    high = [float(np.quantile(maps[n][1], 0.9)) for n in (2, 3, 4)]
    return CascadeThresholds(cut=float(np.median(maps[1][0])), lower=low, upper=high)


def test_the_simulated_cascade_equals_the_deployed_one(deployed):
    _, grids, answers, maps = deployed
    chosen = middling(maps)
    real = run_cascade(grids, answers, chosen, block=64)
    simulated = run_cascade(grids, StoredAnswers(maps), chosen, block=200)
    for one, other in zip(real, simulated, strict=True):
        np.testing.assert_array_equal(one.state, other.state)
        np.testing.assert_array_equal(one.p, other.p)
    assert {REJECTED, COMPUTED, ACCEPTED} <= set(np.unique(real[-1].state).tolist())
    np.testing.assert_array_equal(whole_labels(real[-1], cut=0.5), whole_labels(simulated[-1], cut=0.5))


def test_dense_maps_equal_patch_wise_outputs_also_at_the_edges_of_the_slide(deployed):
    reader, grids, answers, maps = deployed
    for level in grids:
        pixels = [
            (0, 0),
            (level.height - 1, level.width - 1),
            (level.height // 2, 0),
            (level.height // 3, level.width // 3),
        ]
        found = patch_by_patch(reader, level, answers.networks[level.number], pixels, batch=3)
        dense = np.array([maps[level.number][:, y, x] for y, x in pixels])
        np.testing.assert_allclose(dense, found[:, 1:], atol=1e-5)


def test_only_blocks_with_undecided_pixels_are_read(deployed):
    reader, grids = DiscReader(discs(400, 360)[0]), levels(400, 360)
    answers = replace(deployed[2], reader=reader)
    corner = {level.number: np.zeros((2, level.height, level.width), np.float32) for level in grids}
    for level in grids[1:]:
        corner[level.number][0, : level.height // 8, : level.width // 8] = 1

    class Mixed:
        def of(self, level, windows):
            source = answers if level.number == 1 else StoredAnswers(corner)
            return source.of(level, windows)

    run_cascade(grids, Mixed(), CascadeThresholds(cut=0.5, lower=[0.5] * 3, upper=[1] * 3), block=64)
    assert reader.reads == [(0, 0, 0.5)]


def test_maps_can_be_kept_on_disk(deployed, tmp_path):
    _, grids, answers, maps = deployed
    chosen = middling(maps)
    on_disk = run_cascade(grids, answers, chosen, block=64, folder=tmp_path)
    np.testing.assert_array_equal(on_disk[-1].p, run_cascade(grids, answers, chosen, block=64)[-1].p)
    assert isinstance(on_disk[-1].p, np.memmap)


def test_a_slide_smaller_than_a_patch_at_the_coarsest_level_is_segmented():
    image, _ = discs(40, 30, number=2)
    grids = levels(40, 30)
    assert (grids[-1].height, grids[-1].width) == (4, 3)
    answers = NetworkAnswers(DiscReader(image), random_networks(), 32, CPU)
    maps = run_cascade(grids, answers, EVERYTHING, block=32)
    assert maps[-1].p.shape == (2, 40, 30)
    assert np.isfinite(maps[-1].p).all()
