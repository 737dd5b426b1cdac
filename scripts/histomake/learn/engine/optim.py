"""Optimisers and schedules of the learning rate, by name."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, CosineAnnealingWarmRestarts, LRScheduler, OneCycleLR

MOMENTUM = 0.9
FIRST_RESTART = 10
"""The first period of warm restarts is this part of the steps; each period is twice as long as the one before."""

type ParameterGroup = dict[str, Any]
"""A parameter group of a torch optimiser: ``params``, and the options that differ from the optimiser's defaults."""


def build_optimiser(name: str, groups: list[ParameterGroup], *, learning_rate: float) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or ``sgd`` with Nesterov momentum, over groups with own learning rates."""
    if name == "sgd":
        return SGD(groups, lr=learning_rate, momentum=MOMENTUM, nesterov=True)
    return AdamW(groups, lr=learning_rate, fused=torch.cuda.is_available())


def build_schedule(name: str, optimiser: Optimizer, *, steps: int) -> LRScheduler:
    """The learning rate by step: one cycle (Smith 2018), cosine, cosine with warm restarts (SGDR), or constant."""
    if name == "one_cycle":
        peaks = [group["lr"] for group in optimiser.param_groups]
        return OneCycleLR(optimiser, max_lr=peaks, total_steps=max(2, steps), cycle_momentum=False)
    if name == "cosine":
        return CosineAnnealingLR(optimiser, T_max=steps)
    if name == "warm_restarts":
        return CosineAnnealingWarmRestarts(optimiser, T_0=max(1, steps // FIRST_RESTART), T_mult=2)
    return ConstantLR(optimiser, factor=1.0, total_iters=0)
