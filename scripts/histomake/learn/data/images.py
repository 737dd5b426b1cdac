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
    count, channels, height, width = images.shape
    pixels = images.permute(0, 2, 3, 1)
    if not pixels.is_contiguous():
        mean, std = _of_channels(normalisation, channels, 1, images.device)
        return (images - mean.view(1, -1, 1, 1)).div_(std.view(1, -1, 1, 1))
    # Whole rows of pixels: with few channels last, a value per channel is several times slower on a CPU.
    mean, std = _of_channels(normalisation, channels, width, images.device)
    rows = (pixels.view(count, height, width * channels) - mean).div_(std)
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=64)
def _of_channels(
    normalisation: Normalisation, channels: int, repeats: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, both (repeats · channels,), copied to the device once: a copy in each step would
    wait for the GPU.
    """
    mean, std = (torch.tensor(part, device=device) for part in (normalisation.mean, normalisation.std))
    return mean.repeat(channels // 3 * repeats), std.repeat(channels // 3 * repeats)
