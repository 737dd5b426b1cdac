"""Data augmentation of training patches: image and mask change together, and each sample has its own parameters.

Parameters are drawn on the CPU from the counter-based random stream of the step and applied to whole batches on the
training device: all colour changes of a sample are one 3x3 matrix, and all spatial changes one resampling.
torchvision's transforms are not used, because they share one set of parameters per call and draw them from global
state. They can be neither batched per sample nor resumed bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from histomake.config import Augment

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Chroma plane orthogonal to grey (YIQ, ITU-R BT.601). A hue change is a rotation in this plane.
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)

# Optical densities of haematoxylin, eosin and DAB in red, green and blue (Ruifrok & Johnston 2001).
HED_TO_OD = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
OD_TO_HED = np.linalg.inv(HED_TO_OD)
DARKEST = 1 / 255

VECTOR_CHANGE = 0.2
"""Largest change of a component of a stain's vector, as a share of its length, for each doubling of strength."""

LATTICE = 8
"""Number of points per edge of the lattice of elastic displacements (histo-fetch)."""


@dataclass(frozen=True)
class Parameters:
    """Augmentation parameters of n samples; None for disabled changes.

    Attributes:
        turns: int64 (n,), number of quarter turns.
        flip: bool (n,).
        colour: float32 (n, 3, 4), affine map of RGB.
        density: float32 (n, 3, 4), affine map of optical density.
        angle: float32 (n,), radians.
        lattice: float32 (n, 2, LATTICE, LATTICE), displacements in half patches.
        sigma: float32 (n,), pixels.
        blur_radius: Radius of the kernel of the largest possible blur, in pixels.
    """

    turns: Tensor
    flip: Tensor
    colour: Tensor
    density: Tensor | None = None
    angle: Tensor | None = None
    lattice: Tensor | None = None
    sigma: Tensor | None = None
    blur_radius: int = 0

    def part(self, start: int, stop: int) -> Parameters:
        """Those of the samples from ``start`` up to, without, ``stop``."""
        names = ("turns", "flip", "colour", "density", "angle", "lattice", "sigma")
        given = {name: getattr(self, name) for name in names}
        return replace(self, **{name: value[start:stop] for name, value in given.items() if value is not None})

    def to(self, device: torch.device) -> Parameters:
        """Move to ``device`` all tensors except turns and flip, which are needed on the CPU for indexing."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self,
            colour=self.colour.to(device, non_blocking=True),
            density=moved(self.density),
            angle=moved(self.angle),
            lattice=moved(self.lattice),
            sigma=moved(self.sigma),
        )


def draw_parameters(config: Augment, count: int, rng: np.random.Generator) -> Parameters:
    """Draw the parameters of ``count`` samples. Disabled changes consume random numbers too, so others do not vary."""
    turns = rng.integers(0, 4, count)
    flip = rng.random(count) < 0.5
    colour = colour_matrices(config, rng.uniform(-1, 1, (count, 4)))
    density = density_matrices(config.hed, rng.uniform(-1, 1, (count, 3, 2)))
    angle = np.deg2rad(config.rotate) * rng.uniform(-1, 1, count)
    lattice = _lattice(config.elastic, rng.normal(size=(count, 2, LATTICE, LATTICE)))
    sigma = config.blur * rng.random(count)
    stain = stain_matrices(config.stain, rng.uniform(-1, 1, (count, 4)), rng.uniform(-1, 1, (count, 3, 3)))
    if not config.flip:
        turns, flip = np.zeros_like(turns), np.zeros_like(flip)
    return Parameters(
        turns=torch.from_numpy(turns),
        flip=torch.from_numpy(flip),
        colour=_float(colour),
        density=_float(_composed(density, stain)) if config.hed or config.stain else None,
        angle=_float(angle) if config.rotate else None,
        lattice=_float(lattice) if config.elastic else None,
        sigma=_float(sigma) if config.blur else None,
        blur_radius=math.ceil(3 * config.blur),
    )


def _float(values: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def colour_matrices(config: Augment, jitter: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return affine colour maps, float64 (n, 3, 4), on RGB in [0, 1], from ``jitter`` in [-1, 1] (n, 4).

    Brightness scales, contrast scales about mid-grey, saturation scales chroma about luma, and hue rotates chroma.
    They are composed to one matrix (Karras et al. 2020, "Training GANs with limited data", appendix B).
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


def density_matrices(strength: float, jitter: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return affine maps of optical density, float64 (n, 3, 4), from ``jitter`` in [-1, 1] (n, 3, 2).

    The density of each stain is scaled and shifted separately (Tellez et al. 2018, eq. 1). The shift is a fifth of the
    strength, because it also tints the glass.
    """
    scale = 1 + strength * jitter[:, :, 0]
    shift = strength / 5 * jitter[:, :, 1]
    # Densities are row vectors: od · OD_TO_HED · diag(scale) · HED_TO_OD. The matrix is transposed to act on columns.
    matrix = np.einsum("ij,nj,jk->nki", OD_TO_HED, scale, HED_TO_OD)
    return np.concatenate([matrix, (shift @ HED_TO_OD)[:, :, None]], axis=2)


def stain_matrices(
    doublings: float, strengths: NDArray[np.floating], vectors: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Return affine maps of optical density, float64 (n, 3, 4), to the same tissue in other stains.

    Tissue is taken apart into the amounts of three stains and mixed again from changed vectors, with an amount of all
    stains between 1/2 and 2 times, to the power ``doublings``, and of each by half of that power besides. Glass, whose
    density is 0, stays as it is. (Stains of other laboratories as augmentation: Tellez et al. 2019; that vectors vary
    too: Chang et al. 2021, "Stain mix-up".)

    ``strengths`` in [-1, 1] (n, 4): of all stains together, and of each; ``vectors`` in [-1, 1] (n, 3, 3).
    """
    scale = 2 ** (doublings * (strengths[:, :1] + strengths[:, 1:] / 2))
    length = np.linalg.norm(HED_TO_OD, axis=1, keepdims=True)
    changed = np.maximum(HED_TO_OD + VECTOR_CHANGE * doublings * length * vectors, 0)
    changed *= length / np.maximum(np.linalg.norm(changed, axis=2, keepdims=True), DARKEST)
    matrix = np.einsum("ij,nj,njk->nki", OD_TO_HED, scale, changed)
    return np.concatenate([matrix, np.zeros((len(matrix), 3, 1))], axis=2)


def _composed(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.floating]:
    """The affine maps (n, 3, 4) that apply ``first`` and then ``second``."""
    found = second[:, :, :3] @ first
    found[:, :, 3] += second[:, :, 3]
    return found


def _lattice(strength: float, noise: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return displacements with a fixed border, so that a patch shows no pixels from outside (histo-fetch)."""
    displacement = 2 * strength * noise
    displacement[:, :, [0, -1]] = 0
    displacement[:, :, :, [0, -1]] = 0
    return displacement


def apply(images: Tensor, parameters: Parameters, masks: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Augment ``images`` float (n, 3k, h, h) in [0, 1] and ``masks`` int64 (n, h, h) with the same parameters.

    Patches are square. Several views of one position are groups of three channels and change together.
    """
    images = _turn(images, parameters)
    if masks is not None:
        masks = _turn(masks[:, None], parameters)[:, 0]
    if parameters.angle is not None or parameters.lattice is not None:
        images, masks = _resample(images, masks, parameters)
    images = _recolour(images, parameters)
    if parameters.sigma is not None:
        images = _blur(images, parameters.sigma.to(images.device), parameters.blur_radius)
    return images.contiguous(memory_format=torch.channels_last), masks


def _turn(batch: Tensor, parameters: Parameters) -> Tensor:
    """Rotate each sample of (n, c, h, h) by quarter turns and mirror it, without resampling."""
    result = batch.clone()
    for turns in range(4):
        for flip in (False, True):
            chosen = torch.nonzero((parameters.turns == turns) & (parameters.flip == flip))[:, 0]
            chosen = chosen.to(batch.device, non_blocking=True)
            if len(chosen) and (turns or flip):
                turned = torch.rot90(batch[chosen], turns, (2, 3))
                result[chosen] = turned.flip(3) if flip else turned
    return result


def _resample(images: Tensor, masks: Tensor | None, parameters: Parameters) -> tuple[Tensor, Tensor | None]:
    """Rotate and deform in one resampling, reflected at the border; masks use the nearest label."""
    count, _, height, width = images.shape
    zero = torch.zeros(count, device=images.device)
    angle = zero if parameters.angle is None else parameters.angle.to(images.device)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
    if parameters.lattice is not None:
        lattice = parameters.lattice.to(images.device)
        bend = F.interpolate(lattice, (height, width), mode="bilinear", align_corners=True)
        grid = grid + bend.permute(0, 2, 3, 1)

    def sample(values: Tensor, mode: str) -> Tensor:
        return F.grid_sample(values, grid.to(values.dtype), mode, padding_mode="reflection", align_corners=False)

    if masks is not None:
        masks = sample(masks[:, None].float(), "nearest")[:, 0].round().long()
    return sample(images, "bilinear"), masks


def _recolour(images: Tensor, parameters: Parameters) -> Tensor:
    count, channels, height, width = images.shape
    views = images.reshape(count, channels // 3, 3, height, width)
    if parameters.density is not None:
        density = -torch.log10(views.clamp(min=DARKEST))
        views = torch.pow(10, -_map_channels(parameters.density, density))
    return _map_channels(parameters.colour, views).clamp(0, 1).reshape(images.shape)


def _map_channels(maps: Tensor, views: Tensor) -> Tensor:
    """Apply affine maps (n, 3, 4) to the channels of (n, views, 3, h, w)."""
    maps = maps.to(views.device, views.dtype)
    return torch.einsum("nij,nkjhw->nkihw", maps[:, :, :3], views) + maps[:, None, :, 3, None, None]


def _blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur each sample by a Gaussian with its own sigma (n,), one axis after the other, reflected at the border."""
    count, channels, height, width = images.shape
    distance = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (distance / sigma.clamp(min=1e-3)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    stacked = images.reshape(1, count * channels, height, width)
    padded = F.pad(stacked, (radius, radius, radius, radius), mode="reflect")
    rows = F.conv2d(padded, kernel[:, None, :, None], groups=count * channels)
    return F.conv2d(rows, kernel[:, None, None, :], groups=count * channels).reshape(images.shape)
