"""Pixels as a network's input."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from histomake.base.records.model_card import Normalisation


def to_unit(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (n, h, w, c) → float (n, c, h, w) in [0, 1] on ``device``, channels last without a copy."""
    return images.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


def standardise(images: Tensor, normalisation: Normalisation) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel of float (n, 3 · views, h, w)."""
    views = images.shape[1] // 3
    mean, std = (_channel_values(part * views, images.device) for part in (normalisation.mean, normalisation.std))
    return (images - mean) / std


@functools.cache
def _channel_values(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(1, c, 1, 1), copied to the device once: a copy in each step would wait for the GPU."""
    return torch.tensor(values, device=device).view(1, -1, 1, 1)
