"""Owns the pixel networks of a cascade: the answer for one pixel, for a lattice of pixels, and for a whole block.

A pixel network answers three logits per pixel, *nothing*, *nucleus* (level 1) or *mixed*, and *wholly nucleus*, from
the window of ``field`` x ``field`` pixels in which the pixel stands at index ``centre``. Whichever way it is asked, it
gives the same answer up to rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from histomake.config import CascadeNetwork
from histomake.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = 3
LATTICE_STEP = 8
PATCHES_AT_ONCE = 512


class PixelNetwork(nn.Module, ABC):
    """What the cascade needs of a network; ``mean`` and ``std`` (0-255 scale, per channel) are part of its weights."""

    field: int
    centre: int
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3,), 128.0))
        self.register_buffer("std", torch.full((3,), 64.0))

    def normalise(self, windows: Tensor) -> Tensor:
        """uint8 or float (n, 3, h, w) on the 0-255 scale → float32, mean 0, channels last in memory."""
        values = (windows.float() - self.mean[:, None, None]) / self.std[:, None, None]
        return values.contiguous(memory_format=torch.channels_last)

    @abstractmethod
    def crop_edge(self, lattice: int) -> int:
        """Edge of the crop from which `forward` answers lattice x lattice points, in pixels."""

    @abstractmethod
    def points(self, lattice: int) -> range:
        """Along either axis: indices, in the crop, of the pixels that `forward` answers for."""

    @abstractmethod
    def forward(self, crops: Tensor) -> Tensor:
        """Logits (n, 3, m, m) of the crop's lattice points; m = 1 for a crop of ``field`` pixels. For training."""

    @abstractmethod
    def dense(self, windows: Tensor) -> Tensor:
        """Logits (n, 3, h, w) of every pixel of blocks, from windows (n, 3, h + field - 1, w + field - 1)."""


class RadhicalNet(PixelNetwork):
    """The network of RADHicaL (in truth Caffe's CIFAR10-quick): 145,123 parameters, three 5x5 convolutions.

    ``border="zeros"`` is the paper's reading: a 32-pixel patch, every convolution padded with zeros. Its last
    convolution has 8 x 8 outputs, every one of which touches padding, so nothing from there on is shared by
    neighbouring patches: exact dense evaluation could save little more than half, and is done patch by patch.

    ``border="context"`` has the same layers and weights, but the convolutions see the real pixels around the patch
    instead of zeros. That makes the net a function of a 67-pixel window, the same one wherever it is applied, and
    dense evaluation (strides turned into dilations, as in Giusti et al. 2013) exact at 1/150 of the work.

    The paper subtracts a 32 x 32 mean image, which would tie the answer to the position in the patch; averaged over
    random patches it is flat, so its mean colour is subtracted here.
    """

    def __init__(self, border: str = "context") -> None:
        super().__init__()
        self.border = border
        self.field, self.centre = (67, 33) if border == "context" else (32, 16)
        self.conv1 = nn.Conv2d(3, 32, 5)
        self.conv2 = nn.Conv2d(32, 32, 5)
        self.conv3 = nn.Conv2d(32, 64, 5)
        self.hidden = nn.Linear(64 * 4 * 4, 64)
        self.answer = nn.Linear(64, CLASSES)
        for layer in (self.conv1, self.conv2, self.conv3):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def crop_edge(self, lattice: int) -> int:
        if self.border == "zeros" and lattice != 1:
            raise ValueError("a net with zero borders answers for one pixel of a patch")
        return self.field + LATTICE_STEP * (lattice - 1)

    def points(self, lattice: int) -> range:
        return range(self.centre, self.centre + LATTICE_STEP * lattice, LATTICE_STEP)

    def _head(self) -> tuple[Tensor, Tensor]:
        """Both linear layers as one: there is no activation between them, so 64 + 3 outputs are only 3."""
        weight = (self.answer.weight @ self.hidden.weight).view(CLASSES, 64, 4, 4)
        return weight, self.answer.weight @ self.hidden.bias + self.answer.bias

    def forward(self, crops: Tensor) -> Tensor:
        padding = 2 if self.border == "zeros" else 0
        x = F.conv2d(self.normalise(crops), self.conv1.weight, self.conv1.bias, padding=padding)
        x = F.relu(F.max_pool2d(x, 3, 2, ceil_mode=True))
        x = F.relu(F.conv2d(x, self.conv2.weight, self.conv2.bias, padding=padding))
        x = F.avg_pool2d(x, 3, 2, ceil_mode=True)
        x = F.relu(F.conv2d(x, self.conv3.weight, self.conv3.bias, padding=padding))
        return F.conv2d(F.avg_pool2d(x, 3, 2, ceil_mode=True), *self._head())

    def dense(self, windows: Tensor) -> Tensor:
        if self.border == "zeros":
            return _patch_by_patch(self, windows)
        x = _pool(F.conv2d(self.normalise(windows), self.conv1.weight, self.conv1.bias), 1, torch.maximum).relu_()
        x = F.conv2d(x, self.conv2.weight, self.conv2.bias, dilation=2).relu_()
        x = _pool(x, 2, torch.add).div_(9)
        x = F.conv2d(x, self.conv3.weight, self.conv3.bias, dilation=4).relu_()
        # The last pooling is linear too: after the head it has 3 channels to pool, not 64.
        weight, bias = self._head()
        return _pool(F.conv2d(x, weight, dilation=8), 4, torch.add).div_(9).add_(bias[:, None, None])


def _pool(x: Tensor, dilation: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """3x3 pooling at every pixel with ``dilation``, one axis after the other: three times faster than the library's."""
    height, width = x.shape[2] - 2 * dilation, x.shape[3] - 2 * dilation
    rows = combine(combine(x[:, :, :height], x[:, :, dilation : dilation + height]), x[:, :, 2 * dilation :])
    return combine(combine(rows[..., :width], rows[..., dilation : dilation + width]), rows[..., 2 * dilation :])


def _patch_by_patch(net: PixelNetwork, windows: Tensor) -> Tensor:
    """Logits of every pixel, one network pass each: what the paper did, and the definition of the right answer."""
    patches = windows.unfold(2, net.field, 1).unfold(3, net.field, 1)
    n, _, height, width = patches.shape[:4]
    rows = patches.permute(0, 2, 3, 1, 4, 5)
    answers = []
    for image in rows:
        for start in range(0, height * width, PATCHES_AT_ONCE):
            index = torch.arange(start, min(start + PATCHES_AT_ONCE, height * width), device=windows.device)
            answers.append(net(image[index // width, index % width])[:, :, 0, 0])
    return torch.cat(answers).view(n, height, width, CLASSES).permute(0, 3, 1, 2)


class EncoderDecoderNet(PixelNetwork):
    """A segmentation-models-pytorch network as a modern alternative.

    Three encoder stages (stride 8) keep the field of view finite; it is measured, not assumed. The slide is cut on
    multiples of the stride and every block gets a margin as wide as the field of view, so a pixel's answer does not
    depend on the block it is computed in.
    """

    STRIDE = 8

    def __init__(self, name: str, encoder: str) -> None:
        super().__init__()
        self.net = _encoder_decoder(name, encoder)
        self.margin = _margin(name, encoder)
        self.field, self.centre = 2 * self.margin + 1, self.margin

    def crop_edge(self, lattice: int) -> int:
        return 2 * self.margin + self.STRIDE * lattice

    def points(self, lattice: int) -> range:
        return range(self.margin, self.margin + self.STRIDE * lattice)

    def forward(self, crops: Tensor) -> Tensor:
        edge = self.margin
        return self.net(self.normalise(crops))[:, :, edge:-edge, edge:-edge]

    def dense(self, windows: Tensor) -> Tensor:
        height, width = (s - 2 * self.margin for s in windows.shape[2:])
        if height % self.STRIDE or width % self.STRIDE:
            raise ValueError(f"a block of {height} x {width} pixels: edges must be multiples of {self.STRIDE}")
        return self(windows)


def _encoder_decoder(name: str, encoder: str) -> nn.Module:
    import segmentation_models_pytorch as smp  # takes seconds to import, and the paper's net does not need it

    depth = 3
    options: dict[str, Any] = {"encoder_depth": depth, "encoder_weights": None, "in_channels": 3, "classes": CLASSES}
    if name.lower() in ("unet", "unetplusplus", "linknet", "manet"):
        options |= {} if name.lower() == "linknet" else {"decoder_channels": (64, 32, 16)}
    try:
        return smp.create_model(name, encoder_name=encoder, **options)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"radhical network {name} with encoder {encoder}: {error}") from None


@cache
def _margin(name: str, encoder: str, window: int = 512) -> int:
    """How far, in pixels, an answer reaches: where the gradient of one cell of answers is not zero, plus a cell.

    Asked with the weights as they start, and with positive ones: those hide no connection behind a rectifier, but
    saturate the gates of attention.
    """
    net = _encoder_decoder(name, encoder).eval()
    middle, stride = window // 2, EncoderDecoderNet.STRIDE
    reach = 0
    for seed in range(4):
        if seed == 2:
            for parameter in net.parameters():
                parameter.data.abs_().add_(1e-3)
        values = torch.rand(1, 3, window, window, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        net(values)[..., middle : middle + stride, middle : middle + stride].sum().backward()
        touched = values.grad.abs().sum(1)[0].nonzero()
        reach = max(reach, middle - int(touched.min()), int(touched.max()) - (middle + stride - 1))
    margin = -(-reach // stride) * stride + stride
    if margin > middle - 2 * stride:
        raise ConfigError(
            f"radhical network {name} with encoder {encoder} sees the whole window, so blocks would not agree at "
            "their borders; choose one without global pooling or attention, for example unet with resnet18"
        )
    return margin


def build_network(config: CascadeNetwork) -> PixelNetwork:
    """A pixel network with random weights."""
    if config.name == "radhical":
        return RadhicalNet(config.border)
    return EncoderDecoderNet(config.name, config.encoder)


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over the class axis of (n, 3, ...)."""
    return logits.softmax(1)


@torch.inference_mode()
def multiply_adds(net: PixelNetwork, *, block: int) -> int:
    """Multiply-adds of one block of ``block`` x ``block`` pixels; `block` 1: of one patch-wise answer."""
    counter = FlopCounterMode(display=False)
    device = net.mean.device
    with counter:
        if block == 1:
            net(torch.zeros(1, 3, net.crop_edge(1), net.crop_edge(1), device=device))
        else:
            net.dense(torch.zeros(1, 3, block + net.field - 1, block + net.field - 1, device=device))
    return counter.get_total_flops() // 2
