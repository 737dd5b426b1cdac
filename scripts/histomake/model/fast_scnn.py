"""Fast-SCNN (Poudel, Liwicki & Cipolla 2019, arXiv 1902.04502, table 1), which no maintained library provides."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOLED_SIZES = (1, 2, 3, 6)
"""Bins per edge in the pyramid pooling module (Zhao et al. 2017)."""


def _conv(
    inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Module:
    """Return convolution, batch norm and, unless ``relu`` is False, ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def _separable(inputs: int, outputs: int, *, stride: int = 1) -> nn.Module:
    """Return depthwise and pointwise convolution without a non-linearity between them (section 3.2.1)."""
    depthwise = _conv(inputs, inputs, kernel=3, stride=stride, groups=inputs, relu=False)
    return nn.Sequential(depthwise, _conv(inputs, outputs))


class Bottleneck(nn.Module):
    """Inverted residual block (table 2): expand, depthwise, project; with a shortcut if the shape is unchanged."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, expansion: int = 6) -> None:
        super().__init__()
        inner = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.block = nn.Sequential(
            _conv(inputs, inner),
            _conv(inner, inner, kernel=3, stride=stride, groups=inner),
            _conv(inner, outputs, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        return x + self.block(x) if self.shortcut else self.block(x)


class PyramidPooling(nn.Module):
    """Concatenates features with their context at several scales."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_conv(channels, channels // len(POOLED_SIZES)) for _ in POOLED_SIZES)
        self.project = _conv(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c, h, w) to the same shape."""
        pooled = [
            F.interpolate(branch(F.adaptive_avg_pool2d(x, size)), x.shape[2:], mode="bilinear", align_corners=False)
            for size, branch in zip(POOLED_SIZES, self.branches, strict=True)
        ]
        return self.project(torch.cat([x, *pooled], 1))


class FeatureFusion(nn.Module):
    """Adds upsampled deep features to fine features (table 3)."""

    def __init__(self, fine: int, deep: int, outputs: int) -> None:
        super().__init__()
        self.deep = nn.Sequential(
            _conv(deep, deep, kernel=3, groups=deep),
            _conv(deep, outputs, relu=False),
        )
        self.fine = _conv(fine, outputs, relu=False)

    def forward(self, fine: Tensor, deep: Tensor) -> Tensor:
        """Map (n, fine, h, w) and (n, deep, h', w') to (n, outputs, h, w)."""
        deep = F.interpolate(deep, fine.shape[2:], mode="bilinear", align_corners=False)
        return F.relu(self.fine(fine) + self.deep(deep))


class FastSCNN(nn.Module):
    """Learning to downsample, global features, fusion, classifier; 1.11 million parameters in the paper."""

    def __init__(self, *, outputs: int, inputs: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.downsample = nn.Sequential(
            _conv(inputs, 32, kernel=3, stride=2), _separable(32, 48, stride=2), _separable(48, 64, stride=2)
        )
        widths = ((64, 64, 2), (64, 96, 2), (96, 128, 1))
        blocks: list[nn.Module] = []
        for narrow, wide, stride in widths:
            blocks += [Bottleneck(narrow, wide, stride=stride)]
            blocks += [Bottleneck(wide, wide, stride=1) for _ in range(2)]
        self.context = nn.Sequential(*blocks, PyramidPooling(128))
        self.fusion = FeatureFusion(64, 128, 128)
        self.classifier = nn.Sequential(
            _separable(128, 128), _separable(128, 128), nn.Dropout(dropout), nn.Conv2d(128, outputs, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to logits (n, outputs, h, w); h and w are at least 32."""
        fine = self.downsample(x)
        logits = self.classifier(self.fusion(fine, self.context(fine)))
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)
