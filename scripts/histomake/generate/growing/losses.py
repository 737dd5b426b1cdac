"""Losses of the Wasserstein GAN with a penalty of the gradient (Gulrajani et al., NeurIPS 2017)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PENALTY = 10.0
"""Weight of the penalty of the gradient."""

DRIFT = 1e-3
"""Weight of the mean square of the scores of real images, which keeps scores near zero (Karras et al. 2018)."""


def critic_loss(real: Tensor, made: Tensor) -> Tensor:
    """How much higher made images score than real ones, the negative of the Wasserstein distance."""
    return made.mean() - real.mean()


def drift(real: Tensor) -> Tensor:
    """Mean square of the scores of real images."""
    return real.square().mean()


def generator_loss(made: Tensor) -> Tensor:
    """The negative mean score of made images."""
    return -made.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, made: Tensor, shares: Tensor) -> Tensor:
    """Mean squared difference to 1 of the norm of the critic's gradient at images between real and made ones.

    Args:
        critic: Images (n, c, h, w) to scores (n,).
        real: Real images.
        made: As many made ones.
        shares: float (n,) in [0, 1], share of the made image in each one between.
    """
    between = torch.lerp(real, made, shares.reshape(-1, 1, 1, 1)).detach().requires_grad_()
    (gradients,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradients.flatten(1).norm(dim=1) - 1).square().mean()
