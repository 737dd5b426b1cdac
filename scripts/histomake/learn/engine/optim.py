"""Owns the optimiser and the course of its learning rate."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, CosineAnnealingWarmRestarts, LRScheduler, OneCycleLR

from histomake.config import Train

MOMENTUM = 0.9
FIRST_RESTART = 10
"""Part of the steps after which warm restarts begin anew for the first time; every period is twice the last."""


def build_optimiser(train: Train, groups: list[dict[str, Any]]) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019), or SGD with Nesterov momentum, over parameter groups with their own rates."""
    if train.optimizer == "sgd":
        return SGD(groups, lr=train.learning_rate, momentum=MOMENTUM, nesterov=True)
    return AdamW(groups, lr=train.learning_rate, fused=torch.cuda.is_available())


def build_schedule(train: Train, optimiser: Optimizer) -> LRScheduler:
    """The learning rate by step: one cycle (Smith 2018), cosine, cosine with warm restarts (SGDR), or constant."""
    if train.schedule == "one_cycle":
        peaks = [group["lr"] for group in optimiser.param_groups]
        return OneCycleLR(optimiser, max_lr=peaks, total_steps=max(2, train.steps), cycle_momentum=False)
    if train.schedule == "cosine":
        return CosineAnnealingLR(optimiser, T_max=train.steps)
    if train.schedule == "warm_restarts":
        return CosineAnnealingWarmRestarts(optimiser, T_0=max(1, train.steps // FIRST_RESTART), T_mult=2)
    return ConstantLR(optimiser, factor=1.0, total_iters=0)
