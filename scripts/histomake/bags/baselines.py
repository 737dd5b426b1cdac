"""Baselines of a task on bags, from the same features: a linear model of mean features, and the usual target."""

from __future__ import annotations

import logging

import numpy as np
import torch

from histomake.bags.index import BagIndex
from histomake.bags.network import Baselined
from histomake.config import Task
from histomake.features.heads import on_features
from histomake.features.objective import measure
from histomake.learn.kinds import Loss

log = logging.getLogger(__name__)

PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001)
"""L2 penalties of the linear baseline that are tried, relative to the mean loss."""


@torch.no_grad()
def fit_baselines(network: Baselined, task: Task, bags: BagIndex, held_out: BagIndex, loss: Loss) -> float:
    """Fit the baselines of ``network``; return the penalty that is best on the bags ``held_out``.

    The linear one is a logistic or ridge regression, as the kind of task has it, of the mean of a bag's features.
    """
    fit_usual(network, task, bags)
    means, held = _means(network, bags), _means(network, held_out)
    return fit_linear(
        network, task, bags, held_out, means=means, held=held, spread=torch.ones(means.shape[1]), loss=loss
    )


@torch.no_grad()
def fit_linear(
    network: Baselined,
    task: Task,
    bags: BagIndex,
    held_out: BagIndex,
    *,
    means: torch.Tensor,
    held: torch.Tensor,
    spread: torch.Tensor,
    loss: Loss,
) -> float:
    """Fit the linear baseline of ``network``; return the penalty that is best on the bags ``held_out``.

    Args:
        network: Its `linear` gets the weights.
        task: The task.
        bags: Bags to fit to; ``means``: of their vectors, float32 (bags, d), on the CPU.
        held_out: Bags to choose with; ``held``: their means.
        spread: Positive float32 (d,) by which means are divided for the penalty, so that it is the same for all.
        loss: Loss of the task, on the CPU.
    """
    how, target = on_features(task), bags.first.target
    scaled = (means / spread).numpy()
    found: list[tuple[float, float]] = []
    for penalty in PENALTIES:
        weights, biases = how.linear(scaled, target, np.ones(len(bags)), penalty)
        network.linear_weight.copy_(torch.from_numpy(weights) / spread)
        network.linear_bias.copy_(torch.from_numpy(biases))
        score = measure(task, network.linear(held.to(network.mean.device)).cpu(), held_out.first, loss).score
        if not found or score > found[0][0]:
            found = [(score, penalty)]
            best = network.linear_weight.clone(), network.linear_bias.clone()
    network.linear_weight.copy_(best[0])
    network.linear_bias.copy_(best[1])
    log.info("linear baseline on mean features: penalty %g", found[0][1])
    return found[0][1]


@torch.no_grad()
def fit_usual(network: Baselined, task: Task, bags: BagIndex) -> None:
    """Fit the baseline of ``network`` that knows no features."""
    how = on_features(task)
    values = torch.from_numpy(how.values(bags.first.target, len(network.usual)))
    network.usual.copy_(how.as_logits(values.nanmean(0, keepdim=True))[0])


def _means(network: Baselined, bags: BagIndex) -> torch.Tensor:
    """Means (bags, d) of the scaled features of each bag."""
    return torch.stack([network.mean_of(bags, bag) for bag in range(len(bags))])
