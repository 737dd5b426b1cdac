"""A generator and a critic that grow with the size of their images (Karras et al., ICLR 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from histomake.generate.growing.schedule import GROUP

SLOPE = 0.2
"""Slope of the leaky ReLU below zero."""

GAIN = math.sqrt(2)
"""Gain of layers that a leaky ReLU follows (He et al. 2015)."""

EPSILON = 1e-8


def pixel_norm(features: Tensor) -> Tensor:
    """Divide the features of each pixel, or each row, by their root mean square over dimension 1."""
    return features * torch.rsqrt(features.square().mean(1, keepdim=True) + EPSILON)


def batch_deviation(features: Tensor, group: int = GROUP) -> Tensor:
    """Append to (n, c, h, w) one map: how much the images of a group differ, the same for the whole group.

    The standard deviation over ``group`` images, averaged over channels and pixels. The i-th group has the images i,
    i + n / group, …. A batch smaller than ``group`` is one group, any other is a multiple of it.
    """
    n, c, h, w = features.shape
    together = min(group, n)
    parts = features.reshape(together, n // together, c, h, w)
    deviations = (parts - parts.mean(0)).square().mean(0).add(EPSILON).sqrt().mean((1, 2, 3))
    return torch.cat([features, deviations.repeat(together).reshape(n, 1, 1, 1).expand(n, 1, h, w)], dim=1)


def doubled(images: Tensor) -> Tensor:
    """Images of twice the edge, each pixel repeated."""
    return F.interpolate(images, scale_factor=2, mode="nearest")


def halved(images: Tensor) -> Tensor:
    """Images of half the edge, means of 2 x 2 pixels."""
    return F.avg_pool2d(images, 2)


def blended(images: Tensor, alpha: float) -> Tensor:
    """Images faded in: ``alpha`` times themselves, the rest what the size before can show of them."""
    return images if alpha >= 1 else torch.lerp(doubled(halved(images)), images, alpha)


class EqualisedConv(nn.Module):
    """A convolution that keeps the size, with standard normal weights scaled when used: all learn at the same rate.

    The scale is gain / sqrt(inputs · edge²), that of He et al. (ICCV 2015).
    """

    def __init__(self, inputs: int, outputs: int, edge: int, *, gain: float = GAIN, padding: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, edge, edge))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / math.sqrt(inputs * edge**2)
        self.padding = edge // 2 if padding is None else padding

    def forward(self, features: Tensor) -> Tensor:
        """Convolve (n, inputs, h, w)."""
        return F.conv2d(features, self.weight * self.scale, self.bias, padding=self.padding)


class EqualisedLinear(nn.Module):
    """A linear layer with standard normal weights scaled when used, see `EqualisedConv`."""

    def __init__(self, inputs: int, outputs: int, *, gain: float = GAIN, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = gain / math.sqrt(inputs)

    def forward(self, features: Tensor) -> Tensor:
        """Transform (n, inputs)."""
        return F.linear(features, self.weight * self.scale, self.bias)


class _Layer(nn.Module):
    """A convolution, a leaky ReLU and, in the generator, pixel norm."""

    def __init__(self, inputs: int, outputs: int, edge: int = 3, *, norm: bool, padding: int | None = None) -> None:
        super().__init__()
        self.conv, self.norm = EqualisedConv(inputs, outputs, edge, padding=padding), norm

    def forward(self, features: Tensor) -> Tensor:
        features = F.leaky_relu(self.conv(features), SLOPE)
        return pixel_norm(features) if self.norm else features


def widths(sizes: Sequence[int], *, features: int, most: int) -> list[int]:
    """Channels at each size: ``features`` / size, at most ``most``."""
    return [max(1, min(features // size, most)) for size in sizes]


class GrowingGenerator(nn.Module):
    """Latent vectors to images of any of the sizes; 23,079,115 parameters at 4 to 1024 px with the paper's channels.

    Args:
        sizes: Edges of the images, 4 and its doubles.
        latent: Length of latent vectors.
        features, most: See `widths`.
        labels: Number of labels that images are conditioned on, 0 for none.
    """

    def __init__(self, sizes: Sequence[int], *, latent: int, features: int, most: int, labels: int = 0) -> None:
        super().__init__()
        self.sizes, self.latent, self.labels = tuple(sizes), latent, labels
        channels = widths(sizes, features=features, most=most)
        self.first = EqualisedLinear(latent + labels, channels[0] * sizes[0] ** 2, gain=GAIN / 4, bias=False)
        self.first_bias = nn.Parameter(torch.zeros(channels[0]))
        self.blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            inputs = [channels[level - 1], width] if level else [width]
            self.blocks.append(nn.Sequential(*(_Layer(number, width, norm=True) for number in inputs)))
        self.to_rgb = nn.ModuleList(EqualisedConv(width, 3, 1, gain=1) for width in channels)

    def growing(self) -> list[nn.Module]:
        """The modules that only some sizes pass through."""
        return [*self.blocks, *self.to_rgb]

    def parts(self, level: int, *, fading: bool) -> list[nn.Module]:
        """Those of them that images of the ``level``-th size pass through."""
        return [*self.blocks[: level + 1], *self.to_rgb[level - fading : level + 1]]

    def forward(self, latents: Tensor, labels: Tensor | None, *, size: int, alpha: float = 1.0) -> Tensor:
        """Images float (n, 3, size, size), mostly in [-1, 1].

        Args:
            latents: float (n, latent), standard normal.
            labels: int64 (n,), None without labels.
            size: One of the sizes.
            alpha: Share of this size in the image; the rest is the image of the size before.
        """
        level = self.sizes.index(size)
        given = pixel_norm(latents)
        if labels is not None:
            given = torch.cat([given, F.one_hot(labels, self.labels).to(given.dtype)], dim=1)
        edge = self.sizes[0]
        features = self.first(given).reshape(len(given), -1, edge, edge) + self.first_bias[:, None, None]
        before = features = pixel_norm(F.leaky_relu(features, SLOPE))
        for number, block in enumerate(self.blocks[: level + 1]):
            before = features
            features = block(doubled(features) if number else features)
        images: Tensor = self.to_rgb[level](features)
        if level and alpha < 1:
            images = torch.lerp(doubled(self.to_rgb[level - 1](before)), images, alpha)
        return images


class GrowingCritic(nn.Module):
    """A score of images of any of the sizes; 23,087,249 parameters at 4 to 1024 px with the paper's channels.

    With labels the score has a further term, the product of the last features and of a vector of the label
    (Miyato & Koyama, ICLR 2018). Arguments as of `GrowingGenerator`.
    """

    def __init__(self, sizes: Sequence[int], *, features: int, most: int, labels: int = 0) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        channels = widths(sizes, features=features, most=most)
        (deepest,) = widths([sizes[0] // 2], features=features, most=most)
        self.from_rgb = nn.ModuleList(EqualisedConv(3, width, 1) for width in channels)
        self.blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            if level:
                layers = [_Layer(width, width, norm=False), _Layer(width, channels[level - 1], norm=False)]
            else:
                last = _Layer(width, deepest, sizes[0], norm=False, padding=0)
                layers = [_Layer(width + 1, width, norm=False), last]
            self.blocks.append(nn.Sequential(*layers))
        self.score = EqualisedLinear(deepest, 1, gain=1)
        self.label = EqualisedLinear(labels, deepest, gain=1, bias=False) if labels else None

    def growing(self) -> list[nn.Module]:
        """The modules that only some sizes pass through."""
        return [*self.blocks, *self.from_rgb]

    def parts(self, level: int, *, fading: bool) -> list[nn.Module]:
        """Those of them that images of the ``level``-th size pass through."""
        return [*self.blocks[: level + 1], *self.from_rgb[level - fading : level + 1]]

    def forward(self, images: Tensor, labels: Tensor | None, *, alpha: float = 1.0) -> Tensor:
        """Scores float (n,) of images (n, 3, size, size) of one of the sizes; arguments as of the generator."""
        level = self.sizes.index(images.shape[-1])
        features = F.leaky_relu(self.from_rgb[level](images), SLOPE)
        for number in range(level, -1, -1):
            features = self.blocks[number](features if number else batch_deviation(features))
            features = halved(features) if number else features
            if number == level and level and alpha < 1:
                coarse = F.leaky_relu(self.from_rgb[level - 1](halved(images)), SLOPE)
                features = torch.lerp(coarse, features, alpha)
        last = features.flatten(1)
        scores: Tensor = self.score(last)[:, 0]
        if labels is not None and self.label is not None:
            vectors = self.label(F.one_hot(labels, self.label.weight.shape[1]).to(last.dtype))
            scores = scores + (last * vectors).sum(1) / math.sqrt(last.shape[1])
        return scores
