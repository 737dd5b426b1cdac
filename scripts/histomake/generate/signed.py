"""Pixels as the networks see them: float in [-1, 1], channels first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray


def to_signed(images: Tensor, device: torch.device) -> Tensor:
    """Images uint8 (n, h, w, 3) as float (n, 3, h, w) in [-1, 1]."""
    return images.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def from_signed(images: Tensor) -> NDArray[np.uint8]:
    """The inverse of `to_signed`, rounded, on the CPU."""
    levels = images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()
