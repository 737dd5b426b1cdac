"""A growing GAN by hand values: layers, blends, losses, and the course of its phases."""

from __future__ import annotations

import math

import pytest
import torch
from histomake.config import Generator
from histomake.generate.growing.losses import critic_loss, drift, generator_loss, gradient_penalty
from histomake.generate.growing.networks import (
    EqualisedConv,
    EqualisedLinear,
    GrowingCritic,
    GrowingGenerator,
    batch_deviation,
    blended,
    pixel_norm,
)
from histomake.generate.growing.schedule import Schedule, batch_at
from hypothesis import given
from hypothesis import strategies as st

PAPER_SIZES = [4, 8, 16, 32, 64, 128, 256, 512, 1024]
SMALL = {"features": 64, "most": 8}


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def small_generator(**changes) -> GrowingGenerator:
    torch.manual_seed(0)
    return GrowingGenerator([4, 8, 16], latent=6, **SMALL, **changes)


def small_critic(**changes) -> GrowingCritic:
    torch.manual_seed(0)
    return GrowingCritic([4, 8, 16], **SMALL, **changes)


def test_the_networks_of_the_paper_have_its_numbers_of_parameters():
    assert count(GrowingGenerator(PAPER_SIZES, latent=512, features=16_384, most=512)) == 23_079_115
    assert count(GrowingCritic(PAPER_SIZES, features=16_384, most=512)) == 23_087_249


def test_pixel_norm_divides_by_the_root_mean_square_of_the_features():
    found = pixel_norm(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    first = math.sqrt((9 + 16) / 2)
    assert torch.allclose(found, torch.tensor([[3 / first, 4 / first], [0.0, 2 / math.sqrt(2)]]))


def test_weights_are_standard_normal_and_scaled_when_used():
    layer = EqualisedConv(2, 1, 3)
    assert layer.scale == pytest.approx(math.sqrt(2) / math.sqrt(2 * 9))
    layer.weight.data.fill_(1.0)
    centre = layer(torch.ones(1, 2, 3, 3))[0, 0, 1, 1].item()
    assert centre == pytest.approx(18 * math.sqrt(2 / 18))
    linear = EqualisedLinear(4, 1, gain=1)
    linear.weight.data.fill_(1.0)
    assert linear(torch.ones(1, 4)).item() == pytest.approx(4 / 2)


def test_gradients_of_weights_are_scaled_alike():
    layer = EqualisedLinear(4, 1, gain=1, bias=False)
    layer(torch.ones(1, 4)).sum().backward()
    assert torch.allclose(layer.weight.grad, torch.full((1, 4), 0.5))


def test_the_deviation_of_a_group_is_one_map_for_all_its_images():
    features = torch.zeros(4, 1, 2, 2)
    features[0], features[2] = 2.0, 6.0
    found = batch_deviation(features, group=2)
    assert found.shape == (4, 2, 2, 2)
    # Groups are (0, 2) and (1, 3): deviations of 2 and 6 are 2, those of 0 and 0 are 0.
    assert torch.allclose(found[:, 1, 0, 0], torch.tensor([2.0, 1e-4, 2.0, 1e-4]), atol=1e-6)


def test_a_batch_smaller_than_a_group_is_one_group():
    found = batch_deviation(torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1))
    assert torch.allclose(found[:, 1].flatten(), torch.ones(2))


def test_real_images_are_blended_with_what_the_size_before_shows():
    images = torch.tensor([[0.0, 4.0], [8.0, 12.0]]).reshape(1, 1, 2, 2)
    assert torch.equal(blended(images, 1.0), images)
    assert torch.allclose(blended(images, 0.0), torch.full((1, 1, 2, 2), 6.0))
    assert torch.allclose(blended(images, 0.25), torch.tensor([[4.5, 5.5], [6.5, 7.5]]).reshape(1, 1, 2, 2))


@pytest.mark.parametrize("size", [8, 16])
def test_a_fade_begins_with_the_images_of_the_size_before(size):
    network, latents = small_generator(), torch.randn(2, 6)
    before = network(latents, None, size=size // 2)
    repeated = before.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(network(latents, None, size=size, alpha=0.0), repeated, atol=1e-6)
    half = network(latents, None, size=size, alpha=0.5)
    assert torch.allclose(half, (repeated + network(latents, None, size=size)) / 2, atol=1e-5)


@pytest.mark.parametrize("size", [8, 16])
def test_a_critic_begins_a_fade_with_the_scores_of_the_size_before(size):
    critic, images = small_critic(), torch.randn(4, 3, size, size)
    halved = torch.nn.functional.avg_pool2d(images, 2)
    assert torch.allclose(critic(images, None, alpha=0.0), critic(halved, None), atol=1e-5)


def test_labels_change_images_and_scores():
    network, critic = small_generator(labels=2), small_critic(labels=2)
    latents = torch.randn(1, 6).repeat(2, 1)
    first, second = network(latents, torch.tensor([0, 1]), size=8)
    assert not torch.allclose(first, second)
    images = torch.randn(1, 3, 8, 8).repeat(2, 1, 1, 1)
    scores = critic(images, torch.tensor([0, 1]))
    assert scores[0] != scores[1]


def test_parts_of_a_phase_are_all_that_its_images_pass_through():
    network = small_generator()
    for level, size, fading in [(0, 4, False), (1, 8, True), (1, 8, False), (2, 16, True)]:
        network.zero_grad()
        network(torch.randn(2, 6), None, size=size, alpha=0.5 if fading else 1.0).square().sum().backward()
        used = {id(part) for part in network.parts(level, fading=fading)}
        for part in network.growing():
            assert all((p.grad is not None) == (id(part) in used) for p in part.parameters())


def test_the_losses_are_those_of_wasserstein():
    real, made = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0])
    assert critic_loss(real, made).item() == pytest.approx(0.5 - 2.0)
    assert drift(real).item() == pytest.approx(5.0)
    assert generator_loss(made).item() == pytest.approx(-0.5)


def test_the_penalty_is_the_squared_difference_of_the_gradients_norm_to_one():
    weights = torch.tensor([3.0, 0.0, 4.0, 0.0])
    real, made = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    found = gradient_penalty(lambda x: x.flatten(1) @ weights, real, made, torch.tensor([0.2, 0.9]))
    assert found.item() == pytest.approx((5 - 1) ** 2)


def test_the_penalty_looks_between_real_and_made_images():
    seen = []

    def critic(images):
        seen.append(images.detach().clone())
        return images.square().flatten(1).sum(1)

    real, made = torch.zeros(2, 1, 1, 1), torch.full((2, 1, 1, 1), 10.0)
    found = gradient_penalty(critic, real, made, torch.tensor([0.25, 1.0]))
    assert seen[0].flatten().tolist() == [2.5, 10.0]
    assert found.item() == pytest.approx(((5 - 1) ** 2 + (20 - 1) ** 2) / 2)


def test_batches_are_those_of_the_paper():
    assert [batch_at(s, 128) for s in PAPER_SIZES[:8]] == [128, 128, 128, 64, 32, 16, 8, 4]


def test_phases_and_blends_by_hand():
    schedule = Schedule([4, 8, 16], images=20, fade=10, batch=8)
    assert [(p.size, p.fading, p.first, p.steps) for p in schedule.phases] == [
        *[(4, False, 0, 3), (8, True, 3, 2), (8, False, 5, 3), (16, True, 8, 2), (16, False, 10, 3)]
    ]
    assert schedule.steps == 13
    assert [schedule.at(step).alpha(step) for step in (2, 3, 4, 5)] == [1.0, 0.0, 0.8, 1.0]
    assert [schedule.shown(step) for step in (0, 3, 4, 13)] == [0, 24, 32, 104]


def test_without_a_fade_sizes_begin_at_once():
    schedule = Schedule([4, 8], images=8, fade=0, batch=8)
    assert [(p.size, p.fading) for p in schedule.phases] == [(4, False), (8, False)]


@given(st.integers(1, 5), st.integers(1, 300), st.integers(0, 300), st.integers(1, 16))
def test_every_step_belongs_to_the_phase_that_covers_it(levels, images, fade, quarters):
    schedule = Schedule([4 * 2**n for n in range(levels)], images=images, fade=fade, batch=4 * quarters)
    shown, last = -1, -1
    for step in range(schedule.steps):
        phase = schedule.at(step)
        assert phase.first <= step < phase.end
        assert 0 <= phase.alpha(step) <= 1
        assert phase.number >= last
        assert schedule.shown(step) > shown
        shown, last = schedule.shown(step), phase.number


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": [8, 16]}, "take"),
        ({"sizes": [4, 16]}, "take"),
        ({"field_um": 0.1, "sizes": [4]}, "take a larger field"),
        ({"train": {"batch": 6}}, "multiple of 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Generator.model_validate({"field_um": 512} | changes)
