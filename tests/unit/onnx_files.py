"""Networks as ONNX files for tests."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn


class Darkness(nn.Module):
    """Two channels, tissue where green is below one half, so that the correct mask is known."""

    def forward(self, images):
        green = images[:, 1:2]
        return torch.cat([green - 0.5, 0.5 - green], dim=1) * 20


class Redness(nn.Module):
    """One channel, high where red is above one half."""

    def forward(self, images):
        return (images[:, :1] - 0.5) * 20


class Means(nn.Module):
    """Mean and maximum of each channel: vectors of length 6."""

    def forward(self, images):
        return torch.cat([images.mean((2, 3)), images.amax((2, 3))], dim=1)


def export(network: nn.Module, path: Path, *, size: int = 64, batch: int | None = None) -> None:
    """Write a network; ``batch``: for batches of this size only."""
    free = {} if batch else {"dynamic_axes": {"images": {0: "n"}, "found": {0: "n"}}}
    names = {"input_names": ["images"], "output_names": ["found"]}
    given = torch.rand(batch or 2, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), (given,), str(path), dynamo=False, **names, **free)
