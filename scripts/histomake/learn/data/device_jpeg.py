"""JPEG tiles decoded on the device on which a network runs: on a GPU by nvJPEG, through torchvision.

torchvision lets nvJPEG repeat the samples of subsampled chroma. libjpeg-turbo, which decodes on the CPU, interpolates
them ("fancy upsampling"), so that the two differ by tens of grey levels at the edges of nuclei. `interpolate_chroma`
replaces the one by the other. What remains are roundings of the inverse cosine transform.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from histomake.slide.jpeg import Frame

MOST_LEVELS = 2
"""Grey levels by which a value may differ from that of the CPU."""

MOST_BEYOND = 0.005
"""Share of the values that may differ by more, so at least 99.5 % are alike. They lie at saturated pixels, from which
chroma cannot be told."""

INTERPOLATED = {(2, 1), (2, 2), (1, 2)}
"""Horizontal and vertical subsampling of chroma that libjpeg-turbo interpolates; other chroma it repeats."""

_TO_CHROMA = np.array(((-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)))
_TO_RGB = np.array(((0.0, 1.402), (-0.344136, -0.714136), (1.772, 0.0)))
CHROMA_PART = (_TO_RGB @ _TO_CHROMA).tolist()
"""What chroma (JFIF, ITU-R BT.601) adds to each of R, G and B, from R, G and B."""

BLOCK = 8
"""Edge in pixels of a block of the cosine transform."""

UNSURE = 1e-3
"""Weight of a saturated pixel of a chroma sample, whose other pixels say more."""


class DeviceDecodeError(Exception):
    """The device does not decode a batch of tiles to tiles of the expected size."""


class Agreement(NamedTuple):
    """How far values differ from those of the CPU: share of them beyond MOST_LEVELS, and the largest difference."""

    beyond: float
    largest: int

    @property
    def good(self) -> bool:
        """Whether few enough values differ by more than MOST_LEVELS."""
        return self.beyond <= MOST_BEYOND


def subsampling(frame: Frame) -> tuple[int, int]:
    """Horizontal and vertical pixels per chroma sample of a frame of three components; (1, 1) for other layouts."""
    luma, *chroma = frame.sampling
    if set(chroma) != {(1, 1)}:
        return 1, 1
    return luma


def interpolates(frame: Frame) -> bool:
    """Whether libjpeg-turbo interpolates the chroma of a frame, in a way that `interpolate_chroma` can follow."""
    across, down = subsampling(frame)
    return (across, down) in INTERPOLATED and frame.width % across == 0 and frame.height % down == 0


def decode_tiles(files: Sequence[Tensor], shape: tuple[int, int], device: torch.device) -> Tensor:
    """Decode JPEG files, each uint8 (n,) in main memory, to uint8 RGB (n, 3, height, width) on ``device``.

    Raises DeviceDecodeError if a file is damaged or does not have ``shape`` = (height, width).
    """
    # Imported here: jobs that decode on the CPU, and those without networks, do not need torchvision.
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        found = decode_jpeg(list(files), mode=ImageReadMode.RGB, device=device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise DeviceDecodeError(str(error).partition("\n")[0]) from error
    if any(tuple(tile.shape) != (3, *shape) for tile in found):
        raise DeviceDecodeError(f"a tile does not have {shape[1]} x {shape[0]} px")
    return torch.stack(found)


def interpolate_chroma(tiles: Tensor, factors: tuple[int, int]) -> Tensor:
    """Replace repeated chroma samples by interpolated ones, uint8 (n, 3, height, width).

    ``factors``: horizontal and vertical pixels per sample. A sample follows from any of its pixels, in all of which it
    is the same, unless a value was cut off at the end of the scale. Such values stay as they are.
    """
    across, down = factors
    count, _, height, width = tiles.shape
    pixels = [tiles[:, :, i::down, j::across] for i in range(down) for j in range(across)]
    sure = [_unsaturated(part).all(1, keepdim=True).float() + UNSURE for part in pixels]
    mean = sum(part * weight for part, weight in zip(pixels, sure, strict=True)) / sum(sure)
    samples = torch.einsum("kc,nchw->nkhw", torch.tensor(CHROMA_PART, device=tiles.device), mean)
    # Weights of 3/4 and 1/4, as in libjpeg; in place, because whole tiles of float32 take time to pass over.
    change = F.interpolate(samples, (height, width), mode="bilinear")
    change.view(count, 3, height // down, down, width // across, across).sub_(samples[:, :, :, None, :, None])
    changed = change.add_(tiles).round_().clamp_(0, 255).to(torch.uint8)
    return torch.where(_unsaturated(tiles), changed, tiles)


def reduce_tiles(tiles: Tensor, factor: int, factors: tuple[int, int]) -> Tensor:
    """Reduce tiles with repeated chroma samples, uint8 (n, 3, height, width), as libjpeg's scaling does.

    Pixels are means over boxes of ``factor`` pixels. If chroma has other ``factors`` across than down, libjpeg reduces
    it in both directions and interpolates it in one, unless a pixel stands for a whole block of the cosine transform.
    """
    if factor == 1:
        return tiles
    small, (across, down) = F.avg_pool2d(tiles.float(), factor), factors
    if across != down:
        chroma = torch.einsum("kc,nchw->nkhw", torch.tensor(CHROMA_PART, device=tiles.device), small)
        samples = F.avg_pool2d(chroma, (down, across))
        mode = "bilinear" if factor < BLOCK else "nearest"
        small += F.interpolate(samples, small.shape[2:], mode=mode) - chroma
    return small.round_().clamp_(0, 255).to(torch.uint8)


def _unsaturated(values: Tensor) -> Tensor:
    return (values > 0) & (values < 255)


def compare(found: Tensor, expected: Tensor) -> Agreement:
    """Compare uint8 values of a device with those of the CPU, of one shape."""
    apart = (found.cpu().to(torch.int16) - expected.to(torch.int16)).abs()
    return Agreement(float((apart > MOST_LEVELS).float().mean()), int(apart.max()))
