"""Pixel networks of a cascade, evaluated for one pixel, for a lattice of pixels, or for a whole block.

A pixel network computes three logits per pixel (*nothing*; *nucleus* at level 1, *mixed* at other levels; *wholly
nucleus*) from the window of ``field`` x ``field`` pixels in which the pixel has index ``centre``. All three ways of
evaluation give the same result up to rounding.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from histomake.base.errors import ConfigError, HistomakeError
from histomake.base.layout import DESCRIPTION, WEIGHTS
from histomake.base.records.cascade_card import CascadeCard
from histomake.config import CascadeNetwork
from histomake.model.transfer import describing, load_weights_file

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = 3
LATTICE_STEP = 8
STRIDE = 8
RIM_PX = 16
FIELD_WINDOWS = (256, 512)
PATCHES_AT_ONCE = 512


class PixelNetwork(nn.Module, ABC):
    """Interface of a cascade's networks. ``mean`` and ``std`` (0-255 scale, per channel) are part of the weights."""

    field: int
    centre: int
    stride: int
    """Pixels are evaluated in cells of stride x stride, with corners at multiples of the stride."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3,), 128.0))
        self.register_buffer("std", torch.full((3,), 64.0))

    def normalise(self, windows: Tensor) -> Tensor:
        """Convert uint8 or float (n, 3, h, w) on the 0-255 scale to normalised float32, channels last in memory."""
        values = (windows.float() - self.mean[:, None, None]) / self.std[:, None, None]
        return values.contiguous(memory_format=torch.channels_last)

    @abstractmethod
    def crop_edge(self, lattice: int) -> int:
        """Return the edge in pixels of the crop from which `forward` computes lattice x lattice points."""

    @abstractmethod
    def points(self, lattice: int) -> range:
        """Return, along either axis, the indices in the crop of the pixels that `forward` computes."""

    @abstractmethod
    def forward(self, crops: Tensor) -> Tensor:
        """Compute logits (n, 3, m, m) of a crop's lattice points for training; m = 1 for crops of ``field`` pixels."""

    @abstractmethod
    def dense(self, windows: Tensor) -> Tensor:
        """Compute logits (n, 3, h, w) of every pixel of blocks from windows (n, 3, h + field - 1, w + field - 1).

        Blocks start at a multiple of ``stride``, and h and w are multiples of ``stride``.
        """

    @abstractmethod
    def patchwise(self, windows: Tensor) -> Tensor:
        """Compute logits (n, 3, stride, stride) of single cells from windows of field + stride - 1 pixels (naive)."""


class RadhicalNet(PixelNetwork):
    """The network of RADHicaL, which is Caffe's CIFAR10-quick: 145,123 parameters, three 5x5 convolutions.

    ``border="zeros"`` follows the paper: a patch of 32 pixels, and zero padding in every convolution. All 8 x 8 outputs
    of the last convolution depend on padding, so neighbouring patches share no values from there on. Exact dense
    evaluation could save little more than half of the work, so patches are evaluated one by one.

    ``border="context"`` has the same layers and weights, but convolutions use the real pixels around the patch instead
    of zeros. The network then is a function of a window of 67 pixels, independent of its position, and dense
    evaluation (strides converted to dilations, as in Giusti et al. 2013) is exact with 1/150 of the work.

    The paper subtracts a mean image of 32 x 32 pixels, which makes the result depend on the position in the patch. The
    mean over random patches is constant, so the mean colour is subtracted here.
    """

    def __init__(self, border: str = "context") -> None:
        super().__init__()
        self.border = border
        self.field, self.centre, self.stride = (67, 33, 1) if border == "context" else (32, 16, 1)
        self.conv1 = nn.Conv2d(3, 32, 5)
        self.conv2 = nn.Conv2d(32, 32, 5)
        self.conv3 = nn.Conv2d(32, 64, 5)
        self.hidden = nn.Linear(64 * 4 * 4, 64)
        self.answer = nn.Linear(64, CLASSES)
        for layer in (self.conv1, self.conv2, self.conv3):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def crop_edge(self, lattice: int) -> int:
        if self.border == "zeros" and lattice != 1:
            raise ValueError("a network with zero borders computes a single pixel per patch, not a lattice")
        return self.field + LATTICE_STEP * (lattice - 1)

    def points(self, lattice: int) -> range:
        return range(self.centre, self.centre + LATTICE_STEP * lattice, LATTICE_STEP)

    def _head(self) -> tuple[Tensor, Tensor]:
        """Merge both linear layers: without an activation between them, 64 + 3 outputs can be computed as 3."""
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

    def patchwise(self, windows: Tensor) -> Tensor:
        return self(windows)

    def dense(self, windows: Tensor) -> Tensor:
        if self.border == "zeros":
            return _patch_by_patch(self, windows)
        x = _pool(F.conv2d(self.normalise(windows), self.conv1.weight, self.conv1.bias), 1, torch.maximum).relu_()
        x = F.conv2d(x, self.conv2.weight, self.conv2.bias, dilation=2).relu_()
        x = _pool(x, 2, torch.add).div_(9)
        x = F.conv2d(x, self.conv3.weight, self.conv3.bias, dilation=4).relu_()
        # The last pooling is linear too. After the head it pools 3 channels instead of 64.
        weight, bias = self._head()
        return _pool(F.conv2d(x, weight, dilation=8), 4, torch.add).div_(9).add_(bias[:, None, None])


def _pool(x: Tensor, dilation: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Pool 3x3 at every pixel with ``dilation``, one axis after the other: three times faster than in PyTorch."""
    height, width = x.shape[2] - 2 * dilation, x.shape[3] - 2 * dilation
    rows = combine(combine(x[:, :, :height], x[:, :, dilation : dilation + height]), x[:, :, 2 * dilation :])
    return combine(combine(rows[..., :width], rows[..., dilation : dilation + width]), rows[..., 2 * dilation :])


def _patch_by_patch(net: PixelNetwork, windows: Tensor) -> Tensor:
    """Compute logits of every pixel, one network pass each, as in the paper; the reference for other evaluations."""
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

    Three encoder stages (stride 8) keep the field of view finite; its size is measured. The slide is cut at multiples
    of the stride, and every block gets a margin as wide as the field of view, so the result for a pixel does not
    depend on its block. Training crops get a narrow rim instead: near the rim the network sees zeros where the slide
    continues, which reduces accuracy only there and makes crops four times smaller.
    """

    def __init__(self, name: str, encoder: str, field: int | None = None) -> None:
        super().__init__()
        self.net = _encoder_decoder(name, encoder)
        self.margin = _margin(name, encoder) if field is None else field // 2
        self.field, self.centre, self.stride = 2 * self.margin + 1, self.margin, STRIDE

    def crop_edge(self, lattice: int) -> int:
        return 2 * RIM_PX + LATTICE_STEP * lattice

    def points(self, lattice: int) -> range:
        return range(RIM_PX, RIM_PX + LATTICE_STEP * lattice)

    def forward(self, crops: Tensor) -> Tensor:
        return self.net(self.normalise(crops))[:, :, RIM_PX:-RIM_PX, RIM_PX:-RIM_PX]

    def patchwise(self, windows: Tensor) -> Tensor:
        return self.dense(windows)

    def dense(self, windows: Tensor) -> Tensor:
        edge = self.margin
        height, width = (s - 2 * edge for s in windows.shape[2:])
        if height % STRIDE or width % STRIDE:
            raise ValueError(f"a block has {height} x {width} pixels, but its edges must be multiples of {STRIDE}")
        return self.net(self.normalise(windows))[:, :, edge:-edge, edge:-edge]


def _encoder_decoder(name: str, encoder: str) -> nn.Module:
    import segmentation_models_pytorch as smp  # imported here: takes seconds, and the paper's network does not need it

    options: dict[str, Any] = {"encoder_depth": 3, "encoder_weights": None, "in_channels": 3, "classes": CLASSES}
    if name.lower() in ("unet", "unetplusplus", "manet"):
        options["decoder_channels"] = (48, 24, 12)
    try:
        return smp.create_model(name, encoder_name=encoder, **options)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"radhical network {name} with encoder {encoder}: {error}") from None


@cache
def _margin(name: str, encoder: str) -> int:
    """Measure the field of view in pixels: where the gradient of one cell of outputs is not zero, plus one cell.

    It is measured with initial weights and with positive weights. Positive weights hide no connection behind a
    rectifier, but they saturate the gates of attention modules.
    """
    net = _encoder_decoder(name, encoder).eval().requires_grad_(False)
    for window in FIELD_WINDOWS:
        margin = -(-_reach(net, window) // STRIDE) * STRIDE + STRIDE
        if margin <= window // 2 - 2 * STRIDE:
            return margin
    raise ConfigError(
        f"radhical network {name} with encoder {encoder} sees the whole window, so blocks would differ at their "
        "borders; choose a network without global pooling or attention, for example unet with tu-resnet10t"
    )


def _reach(net: nn.Module, window: int) -> int:
    """Return the distance from the middle cell of a window to the farthest pixel that its outputs depend on."""
    middle, reach = window // 2, 0
    for positive in (False, True):
        probe = copy.deepcopy(net)
        if positive:
            _make_all_pixels_count(probe)
        values = torch.rand(1, 3, window, window, generator=torch.Generator().manual_seed(0)).requires_grad_()
        answers = probe(values)[..., middle : middle + STRIDE, middle : middle + STRIDE].sum()
        (gradient,) = torch.autograd.grad(answers, values)
        touched = gradient.abs().sum(1)[0].nonzero()
        reach = max(reach, middle - int(touched.min()), int(touched.max()) - (middle + STRIDE - 1))
    return reach


@torch.no_grad()
def _make_all_pixels_count(net: nn.Module) -> None:
    """Make every pixel in the field of view contribute: positive weights, and average instead of maximum pooling."""
    for parameter in net.parameters():
        parameter.abs_().add_(1e-3)
    for module in net.modules():
        for name, pool in module.named_children():
            if isinstance(pool, nn.MaxPool2d):
                mean = nn.AvgPool2d(pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode)
                setattr(module, name, mean)


def build_network(config: CascadeNetwork, *, field: int | None = None) -> PixelNetwork:
    """Build a pixel network with random weights; ``field`` is the known field of view of an encoder-decoder network."""
    if config.name == "radhical":
        return RadhicalNet(config.border)
    return EncoderDecoderNet(config.name, config.encoder, field)


def load_network(folder: Path, device: torch.device) -> PixelNetwork:
    """Load a trained network, in eval mode.

    Raises:
        HistomakeError: The level has no model, or one that cannot be used.
    """
    if not (folder / WEIGHTS).exists():
        raise HistomakeError(f"no trained level in {folder}: train every level before the cascade runs")
    card = CascadeCard.read(folder / DESCRIPTION)
    with describing(folder / DESCRIPTION, card.REMEDY):
        net = build_network(CascadeNetwork.model_validate(card.network), field=card.field)
    load_weights_file(net, folder / WEIGHTS, sha256=card.weights_sha256)
    return net.to(device).to(memory_format=torch.channels_last).eval()


def probabilities(logits: Tensor) -> Tensor:
    """Return the softmax over the class axis of (n, 3, ...)."""
    return logits.softmax(1)


@lru_cache(maxsize=64)
@torch.inference_mode()
def multiply_adds(net: PixelNetwork, shape: tuple[int, int] | None = None) -> int:
    """Count the multiply-adds of one block of ``shape`` (height, width), or of one patch-wise evaluation."""
    counter = FlopCounterMode(display=False)
    height, width = shape or (net.stride, net.stride)
    window = torch.zeros(1, 3, height + net.field - 1, width + net.field - 1, device=net.mean.device)
    with counter:
        net.dense(window) if shape else net.patchwise(window)
    return counter.get_total_flops() // 2
