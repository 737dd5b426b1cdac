"""CycleGAN by hand values: networks, pool, losses and the course of the learning rate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from histomake.base.rng import counter_rng
from histomake.generate.losses import critic_loss, cycle_loss, rate_factor, real_loss
from histomake.generate.networks import InstanceNorm, PatchCritic, StainGenerator, patch_edge
from histomake.generate.pool import ImagePool
from histomake.generate.signed import from_signed, to_signed


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_networks_have_the_numbers_of_parameters_of_the_paper():
    assert count(StainGenerator(blocks=9, filters=64)) == 11_378_179
    assert count(PatchCritic(layers=3, filters=64)) == 2_764_737


def test_a_generator_returns_an_image_of_the_same_size_in_minus_one_to_one():
    images = StainGenerator(blocks=1, filters=4)(torch.randn(2, 3, 64, 96))
    assert images.shape == (2, 3, 64, 96)
    assert images.abs().max() <= 1


def test_a_critic_scores_overlapping_patches_of_70_pixels():
    assert patch_edge(3) == 70
    assert PatchCritic(layers=3, filters=4)(torch.randn(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_a_pixel_depends_on_no_pixel_beyond_the_margin_with_fixed_statistics():
    torch.manual_seed(0)
    network = StainGenerator(blocks=2, filters=4).double()
    for norm in network.norms():
        norm.joint = True
    with torch.inference_mode():
        network(torch.rand(1, 3, 64, 64, dtype=torch.float64))
    for norm in network.norms():
        norm.joint = False
    edge, middle = 2 * network.margin + 32, network.margin + 16
    images = torch.rand(1, 3, edge, edge, dtype=torch.float64, requires_grad=True)
    network(images)[0, :, middle, middle].sum().backward()
    (rows,) = torch.nonzero(images.grad.abs().sum((0, 1, 3)), as_tuple=True)
    assert middle - network.margin <= rows.min() <= rows.max() <= middle + network.margin
    assert network.margin - max(middle - int(rows.min()), int(rows.max()) - middle) < 8


def test_the_margin_of_nine_blocks_is_88_pixels():
    assert StainGenerator(blocks=9, filters=4).margin == 88


def test_joint_statistics_are_those_of_all_images_together():
    norm = InstanceNorm()
    norm.joint = True
    images = torch.tensor([[[[1.0, 3.0]]], [[[5.0, 7.0]]]])
    found = norm(images)
    torch.testing.assert_close(norm.statistics, torch.tensor([[4.0], [5.0]]))
    torch.testing.assert_close(found, (images - 4) / (5 + 1e-5) ** 0.5)


def test_fixed_statistics_are_used_for_every_later_image():
    norm = InstanceNorm()
    norm.statistics = torch.tensor([[2.0], [4.0 - 1e-5]])
    torch.testing.assert_close(norm(torch.full((1, 1, 2, 2), 6.0)), torch.full((1, 1, 2, 2), 2.0))


def test_without_fixed_statistics_each_image_has_its_own():
    images = torch.randn(3, 2, 8, 8)
    torch.testing.assert_close(InstanceNorm()(images), torch.nn.InstanceNorm2d(2)(images))


def test_losses_have_the_values_that_are_computed_by_hand():
    scores = torch.tensor([0.5, 2.0])
    assert float(real_loss(scores)) == pytest.approx((0.25 + 1) / 2)
    assert float(critic_loss(scores, torch.tensor([1.0, 3.0]))) == pytest.approx(0.5 * (0.625 + 5))
    assert float(cycle_loss(torch.tensor([0.0, 1.0]), torch.tensor([0.5, -1.0]))) == pytest.approx(1.25)


def test_the_learning_rate_is_constant_and_then_falls_linearly():
    assert [rate_factor(step, 8) for step in range(8)] == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert [rate_factor(step, 5) for step in range(5)] == pytest.approx([1, 1, 1, 2 / 3, 1 / 3])


def test_a_pool_is_filled_first_and_returns_the_new_images():
    pool = ImagePool(2)
    images = torch.arange(2.0).reshape(2, 1, 1, 1)
    assert torch.equal(pool.exchange(images, counter_rng(0)), images)
    assert torch.equal(torch.stack(pool.images), images)


def test_a_full_pool_gives_an_earlier_image_half_of_the_time_and_keeps_the_new_one_for_it():
    pool, earlier = ImagePool(50), 0
    for step in range(2050):
        image = torch.full((1, 1, 1, 1), float(step))
        before = [float(kept) for kept in pool.images]
        (found,) = pool.exchange(image, counter_rng(0, step=step)).flatten().tolist()
        if step < 50:
            assert found == step
            continue
        earlier += found != step
        changed = [(old, new) for old, new in zip(before, map(float, pool.images), strict=True) if old != new]
        assert changed == ([] if found == step else [(found, float(step))])
    assert abs(earlier / 2000 - 0.5) < 0.05


def test_a_pool_continues_from_its_state():
    pool, other = ImagePool(2), ImagePool(2)
    pool.exchange(torch.randn(2, 3, 4, 4), counter_rng(0))
    other.restore(pool.state(), torch.device("cpu"))
    new = torch.randn(5, 3, 4, 4)
    assert torch.equal(pool.exchange(new, counter_rng(3)), other.exchange(new, counter_rng(3)))


def test_images_are_the_same_after_both_conversions():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    signed = to_signed(torch.from_numpy(levels), torch.device("cpu"))
    assert (float(signed.min()), float(signed.max())) == (-1.0, 1.0)
    assert np.array_equal(from_signed(signed), levels)


def test_a_residual_generator_begins_by_changing_nothing():
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(StainGenerator(blocks=1, filters=4, residual=True)(images), images)


def test_a_residual_generator_has_as_many_weights():
    one, other = (StainGenerator(blocks=2, filters=8, residual=residual) for residual in (False, True))
    assert sum(p.numel() for p in one.parameters()) == sum(p.numel() for p in other.parameters())


def test_a_flat_image_gets_no_checkerboard():
    """With transposed convolutions, neighbouring pixels would get different numbers of terms."""
    torch.manual_seed(0)
    network = StainGenerator(blocks=1, filters=8).eval()
    for norm in network.norms():
        norm.statistics = torch.tensor([[0.0], [1.0]]).expand(2, 1)
    flat = network(torch.full((1, 3, 96, 96), 0.3))[..., 32:64, 32:64]
    assert (flat.amax((2, 3)) - flat.amin((2, 3))).max() < 1e-6
