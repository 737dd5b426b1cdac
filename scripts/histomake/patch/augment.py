"""Owns random changes of training patches: image and mask change together, each sample by its own seed.

Parameters are drawn on the CPU from the counter-based stream of the step; they are applied to whole batches on the
training device, where every colour change of a sample is one 3x3 matrix and every spatial change one resampling.
torchvision's transforms share one set of parameters per call and draw them from global state, so they can be neither
batched per sample nor resumed bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from histomake.config import Augment

LUMA = np.array([0.299, 0.587, 0.114])
# Chroma plane orthogonal to grey (YIQ, ITU-R BT.601): a hue change is a rotation within it.
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)


@dataclass(frozen=True)
class Parameters:
    """Changes of n samples. Turns: int64 (n,) quarter turns; flip: bool (n,); colour: float32 (n, 3, 4)."""

    turns: Tensor
    flip: Tensor
    colour: Tensor


def draw_parameters(config: Augment, count: int, rng: np.random.Generator) -> Parameters:
    """Draw the changes of ``count`` samples. Every setting consumes randomness, so switching one off moves no other."""
    turns = rng.integers(0, 4, count)
    flip = rng.random(count) < 0.5
    jitter = rng.uniform(-1.0, 1.0, (count, 4))
    if not config.flip:
        turns, flip = np.zeros_like(turns), np.zeros_like(flip)
    return Parameters(
        turns=torch.from_numpy(turns),
        flip=torch.from_numpy(flip),
        colour=torch.from_numpy(colour_matrices(config, jitter).astype(np.float32)),
    )


def colour_matrices(config: Augment, jitter: np.ndarray) -> np.ndarray:
    """Affine colour maps, float64 (n, 3, 4), on RGB in [0, 1], from ``jitter`` in [-1, 1] (n, 4).

    Brightness scales, contrast scales about mid-grey, saturation scales chroma about luma, hue rotates chroma;
    composed as one matrix (Karras et al. 2020, "Training GANs with limited data", appendix B).
    """
    brightness = 1 + config.brightness * jitter[:, 0]
    contrast = 1 + config.brightness * jitter[:, 1]
    saturation = 1 + config.saturation * jitter[:, 2]
    angle = 2 * math.pi * config.hue * jitter[:, 3]
    rotate = np.zeros((len(jitter), 3, 3))
    rotate[:, 0, 0] = 1
    rotate[:, 1, 1] = rotate[:, 2, 2] = saturation * np.cos(angle)
    rotate[:, 2, 1] = saturation * np.sin(angle)
    rotate[:, 1, 2] = -rotate[:, 2, 1]
    matrix = (brightness * contrast)[:, None, None] * (YIQ_TO_RGB @ rotate @ RGB_TO_YIQ)
    offset = (0.5 * (1 - contrast))[:, None, None] * np.ones((1, 3, 1))
    return np.concatenate([matrix, offset], axis=2)


def apply(images: Tensor, parameters: Parameters, masks: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Change ``images`` float (n, 3, h, h) in [0, 1] and, alike, ``masks`` int64 (n, h, h); square patches."""
    images = _turn(images, parameters)
    if masks is not None:
        masks = _turn(masks[:, None], parameters)[:, 0]
    colour = parameters.colour.to(images.device, images.dtype)
    changed = torch.einsum("nij,njhw->nihw", colour[:, :, :3], images) + colour[:, :, 3, None, None]
    return changed.clamp_(0, 1).contiguous(memory_format=torch.channels_last), masks


def _turn(batch: Tensor, parameters: Parameters) -> Tensor:
    """Rotate by quarter turns and mirror each sample of (n, c, h, h), exactly (no resampling)."""
    result = batch.clone()
    for turns in range(4):
        for flip in (False, True):
            chosen = torch.nonzero((parameters.turns == turns) & (parameters.flip == flip))[:, 0].to(batch.device)
            if len(chosen):
                turned = torch.rot90(batch[chosen], turns, (2, 3))
                result[chosen] = turned.flip(3) if flip else turned
    return result
