"""Tests of augmentation: consistency of image and mask, reproducibility, and colour changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from histomake.base.rng import AUGMENT, counter_rng
from histomake.config import Augment
from histomake.patch.augment import (
    HED_TO_OD,
    apply,
    colour_matrices,
    density_matrices,
    draw_parameters,
    stain_matrices,
)
from hypothesis import given, settings
from hypothesis import strategies as st

OFF = {"flip": False, "brightness": 0, "saturation": 0, "hue": 0}
SPATIAL = [{"flip": True}, {"rotate": 90}, {"elastic": 0.02}, {"flip": True, "rotate": 45, "elastic": 0.01}]


def parameters(count: int = 8, step: int = 0, **options):
    return draw_parameters(Augment(**{**OFF, **options}), count, counter_rng(0, step=step, stream=AUGMENT))


def pictures(count: int = 8, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Return smooth images and the masks of their bright parts."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 1, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1).repeat(1, 3, 1, 1)
    return images, (images[:, 0] > 0.5).long()


def test_with_everything_disabled_nothing_changes() -> None:
    images, masks = pictures()
    changed, same = apply(images, parameters(), masks)
    assert torch.allclose(changed, images, atol=1e-6)
    assert torch.equal(same, masks)


@pytest.mark.parametrize("options", SPATIAL)
def test_image_and_mask_move_together(options: dict) -> None:
    images, masks = pictures()
    changed, moved = apply(images, parameters(**options), masks)
    assert not torch.equal(moved, masks)
    agreement = ((changed[:, 0] > 0.5).long() == moved).float().mean()
    assert agreement > 0.97


def test_flips_and_turns_keep_every_pixel() -> None:
    images, _ = pictures()
    changed, _ = apply(images, parameters(flip=True))
    assert torch.equal(changed.flatten(1).sort().values, images.flatten(1).sort().values)


def test_all_eight_symmetries_occur() -> None:
    drawn = parameters(count=200, flip=True)
    assert len(set(zip(drawn.turns.tolist(), drawn.flip.tolist(), strict=True))) == 8


@pytest.mark.parametrize(
    "options", [{"hed": 0.05}, {"rotate": 30}, {"elastic": 0.01}, {"blur": 2}, {"hue": 0.1}, {"stain": 1}]
)
def test_a_step_always_gives_the_same_change_and_other_steps_other_changes(options: dict) -> None:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    first, again, other = (apply(images, parameters(4, step, **options))[0] for step in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_disabling_one_setting_does_not_affect_the_others() -> None:
    with_colour, without = parameters(flip=True, hue=0.1), parameters(flip=True)
    assert torch.equal(with_colour.turns, without.turns)
    assert torch.equal(with_colour.flip, without.flip)


@given(hue=st.floats(0, 0.5), saturation=st.floats(0, 1), jitter=st.lists(st.floats(-1, 1), min_size=2, max_size=2))
@settings(deadline=None)
def test_hue_and_saturation_do_not_change_grey_and_luma(hue: float, saturation: float, jitter: list[float]) -> None:
    config = Augment(flip=False, brightness=0, saturation=saturation, hue=hue)
    matrix = colour_matrices(config, np.array([[0, 0, *jitter]]))[0]
    assert matrix[:, :3] @ np.full(3, 0.4) + matrix[:, 3] == pytest.approx(np.full(3, 0.4), abs=1e-3)
    luma = np.array([0.299, 0.587, 0.114])
    colour = np.array([0.8, 0.3, 0.6])
    assert luma @ (matrix[:, :3] @ colour) == pytest.approx(luma @ colour, abs=1e-3)


def test_density_jitter_of_one_stain_does_not_change_the_others() -> None:
    jitter = np.zeros((1, 3, 2))
    jitter[0, 0, 0] = 1
    matrix = density_matrices(0.1, jitter)[0]
    haematoxylin, eosin = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
    assert matrix[:, :3] @ haematoxylin == pytest.approx(1.1 * haematoxylin)
    assert matrix[:, :3] @ eosin == pytest.approx(eosin)


def test_another_stain_leaves_glass_as_it_is_and_without_strength_everything() -> None:
    rng = np.random.default_rng(1)
    strengths, vectors = rng.uniform(-1, 1, (50, 4)), rng.uniform(-1, 1, (50, 3, 3))
    assert not stain_matrices(1.0, strengths, vectors)[:, :, 3].any()
    unchanged = stain_matrices(0.0, strengths, vectors)
    assert unchanged[:, :, :3] == pytest.approx(np.broadcast_to(np.eye(3), (50, 3, 3)), abs=1e-12)


def test_another_stain_of_the_same_vectors_multiplies_the_amounts() -> None:
    haematoxylin, eosin = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
    # All stains twice as strong, and haematoxylin besides by the square root of 2.
    matrix = stain_matrices(1.0, np.array([[1.0, 1.0, 0.0, 0.0]]), np.zeros((1, 3, 3)))[0, :, :3]
    assert matrix @ haematoxylin == pytest.approx(2 * 2**0.5 * haematoxylin)
    assert matrix @ eosin == pytest.approx(2 * eosin)


@given(seed=st.integers(0, 1000), doublings=st.floats(0, 2))
@settings(deadline=None, max_examples=30)
def test_vectors_of_another_stain_keep_their_length_and_absorb_no_negative_light(seed: int, doublings: float) -> None:
    vectors = np.random.default_rng(seed).uniform(-1, 1, (1, 3, 3))
    matrix = stain_matrices(doublings, np.zeros((1, 4)), vectors)[0, :, :3]
    changed = (matrix @ HED_TO_OD.T).T
    assert (changed >= -1e-9).all()
    assert np.linalg.norm(changed, axis=1) == pytest.approx(np.linalg.norm(HED_TO_OD, axis=1))


def test_another_stain_follows_the_jitter_of_densities() -> None:
    jittered, stained = (parameters(4, step=2, **options) for options in ({"hed": 0.1}, {"stain": 1.0}))
    both = parameters(4, step=2, hed=0.1, stain=1.0)
    expected = stained.density[:, :, :3] @ jittered.density
    assert torch.allclose(both.density, expected, atol=1e-5)


def test_blur_of_a_point_is_a_gaussian_of_the_drawn_sigma() -> None:
    images = torch.zeros(1, 3, 41, 41)
    images[:, :, 20, 20] = 1
    drawn = parameters(1, blur=3)
    blurred = apply(images, drawn)[0][0, 0]
    distance = torch.arange(41) - 20.0
    assert blurred.sum() == pytest.approx(1, abs=1e-3)
    assert (blurred.sum(0) * distance**2).sum() == pytest.approx(float(drawn.sigma[0]) ** 2, rel=0.05)


def test_elastic_deformation_keeps_the_border() -> None:
    images, _ = pictures(4, 64)
    changed, _ = apply(images, parameters(4, elastic=0.02))
    difference = (changed - images).abs()
    assert difference[:, :, 0].max() < 0.02
    assert difference[:, :, 16:48, 16:48].max() > 0.02


def test_views_of_one_position_change_together() -> None:
    images, _ = pictures()
    options = {"flip": True, "rotate": 30, "hue": 0.2, "hed": 0.05}
    changed, _ = apply(images.repeat(1, 2, 1, 1), parameters(**options))
    assert torch.allclose(changed[:, :3], changed[:, 3:])
