"""Losses of CycleGAN, and the course of its learning rate (Zhu et al., ICCV 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def real_loss(scores: Tensor) -> Tensor:
    """Least squares (Mao et al., ICCV 2017): mean squared distance of scores to 1, that of real images."""
    return F.mse_loss(scores, torch.ones_like(scores))


def critic_loss(real: Tensor, translated: Tensor) -> Tensor:
    """Half the sum of the squared distances of real images to 1 and of translated ones to 0.

    The half lets the critic learn at half the rate of the generator.
    """
    return 0.5 * (real_loss(real) + F.mse_loss(translated, torch.zeros_like(translated)))


def cycle_loss(images: Tensor, returned: Tensor) -> Tensor:
    """Mean absolute difference of images in [-1, 1]."""
    return F.l1_loss(returned, images)


def rate_factor(step: int, steps: int) -> float:
    """Factor of the learning rate in a step: 1 in the first half, then falling linearly towards 0."""
    half = steps // 2
    return 1.0 if step < half else 1.0 - (step - half) / (steps - half)
