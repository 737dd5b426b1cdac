"""Networks of CycleGAN: a generator of residual blocks, and a critic of overlapping patches (Zhu et al., ICCV 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_DEVIATION = 0.02
"""Standard deviation of the initial weights of convolutions."""

SLOPE = 0.2
"""Slope of the critic's leaky ReLU below zero."""

STEP = 4
"""The generator halves its input twice: edges of images and of windows are multiples of this."""

EPSILON = 1e-5


class InstanceNorm(nn.Module):
    """Instance normalisation without learned scale, whose statistics may be fixed.

    Attributes:
        statistics: Mean and variance of each channel, float (2, channels), that every image is normalised by; None:
            each image by its own, as in training.
        joint: Take the statistics of all images of the next batch together, and fix them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.statistics: Tensor | None = None
        self.joint = False

    def forward(self, images: Tensor) -> Tensor:
        """Normalise (n, channels, h, w)."""
        if self.joint:
            values = images.float()
            mean = values.mean((0, 2, 3))
            self.statistics = torch.stack([mean, ((values - mean[:, None, None]) ** 2).mean((0, 2, 3))])
        if self.statistics is None:
            return F.instance_norm(images, eps=EPSILON)
        mean, variance = self.statistics[..., None, None].to(images.dtype)
        return (images - mean) * torch.rsqrt(variance + EPSILON)


class _ResidualBlock(nn.Module):
    """Two convolutions whose result is added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            InstanceNorm(),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            InstanceNorm(),
        )

    def forward(self, images: Tensor) -> Tensor:
        added: Tensor = self.layers(images)
        return images + added


class StainGenerator(nn.Module):
    """Image to image at the same size; 11,378,179 parameters with 9 blocks of 64 filters.

    Args:
        blocks: Number of residual blocks, at a quarter of the resolution.
        filters: Channels at full resolution; four times as many in the blocks.
        residual: Add the input to the output, so that the change of an image is learned and training begins with none
            (de Bel et al., Medical Image Analysis 2021).
    """

    def __init__(self, *, blocks: int, filters: int, residual: bool = False) -> None:
        super().__init__()
        self.blocks, self.residual = blocks, residual
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, filters, 7), InstanceNorm(), nn.ReLU()]
        for channels in (filters, 2 * filters):
            layers += [nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), InstanceNorm(), nn.ReLU()]
        layers += [_ResidualBlock(4 * filters) for _ in range(blocks)]
        for channels in (4 * filters, 2 * filters):
            # In place of the paper's transposed convolution, whose uneven overlap draws a checkerboard (Odena et al.,
            # Distill 2016); the number of weights is the same.
            layers += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(channels, channels // 2, 3, padding=1),
                InstanceNorm(),
                nn.ReLU(),
            ]
        last = nn.Conv2d(filters, 3, 7)
        self.layers = nn.Sequential(*layers, nn.ReflectionPad2d(3), last, nn.Tanh())
        _initialise(self)
        if residual:
            nn.init.zeros_(last.weight)

    @property
    def margin(self) -> int:
        """Pixels around an output pixel that it may depend on, a multiple of STEP, statistics aside.

        A convolution of edge k sees (k - 1) / 2 pixels of its own resolution on each side: 3 + 1 + 2 before the
        blocks, 8 in each block, 4 + 2 + 3 behind them.
        """
        return -(-(8 * self.blocks + 15) // STEP) * STEP

    def norms(self) -> list[InstanceNorm]:
        """All normalisations, from the input to the output."""
        return [module for module in self.modules() if isinstance(module, InstanceNorm)]

    def forward(self, images: Tensor) -> Tensor:
        """Translate float (n, 3, h, w) in [-1, 1], which residual ones may leave; h and w are multiples of STEP."""
        translated: Tensor = self.layers(images)
        return images + translated if self.residual else translated


class PatchCritic(nn.Module):
    """Score of every overlapping patch of an image; 2,764,737 parameters and 70 x 70 px with 3 layers of 64 filters.

    Args:
        layers: Number of convolutions that halve their input.
        filters: Channels of the first of them; doubled in each further one, up to eight times as many.
    """

    def __init__(self, *, layers: int, filters: int) -> None:
        super().__init__()
        widths = [filters * min(2**n, 8) for n in range(layers + 1)]
        modules: list[nn.Module] = [nn.Conv2d(3, filters, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        for n in range(1, layers + 1):
            stride = 2 if n < layers else 1
            modules.append(nn.Conv2d(widths[n - 1], widths[n], 4, stride=stride, padding=1))
            modules += [InstanceNorm(), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*modules, nn.Conv2d(widths[-1], 1, 4, padding=1))
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (n, 1, rows, columns) of images (n, 3, h, w) in [-1, 1]."""
        scores: Tensor = self.layers(images)
        return scores


def patch_edge(layers: int) -> int:
    """Edge in pixels of the patch that a score of the critic sees."""
    edge = 1
    for stride in [1, 1, *[2] * layers]:
        edge = edge * stride + 4 - stride
    return edge


def _initialise(network: nn.Module) -> None:
    """Normal weights of deviation INITIAL_DEVIATION and no bias."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, INITIAL_DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
