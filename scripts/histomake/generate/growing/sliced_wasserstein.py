"""Sliced Wasserstein distance of two sets of images at each scale (Karras et al., ICLR 2018, section 5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

COARSEST = 16
"""Edge in pixels of the coarsest scale, or of the images if they are smaller."""

NEIGHBOURHOOD = 7
"""Edge in pixels of the descriptors."""

PER_IMAGE = 128
"""Descriptors of an image at each scale."""

DIRECTIONS = 512
"""Random directions onto which descriptors are projected."""

IMAGES = 32
"""Images at a time."""

STEP = 64
"""Directions at a time."""


def scales(images: NDArray[np.uint8]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The Laplacian pyramid of images (n, s, s, 3): edge and float (n, s, s, 3) of each level, finest first.

    The coarsest level has the images themselves, all others what the next one does not show.
    """
    level = images.astype(np.float32)
    while len(level[0]) > COARSEST:
        below = np.stack([cv2.pyrDown(image) for image in level])
        yield len(level[0]), level - np.stack([cv2.pyrUp(image) for image in below])
        level = below
    yield len(level[0]), level


def sliced_wasserstein(
    first: NDArray[np.uint8], second: NDArray[np.uint8], rng: np.random.Generator
) -> dict[int, float]:
    """Distance of two sets of images by the edge of the scale; 0 for the same distribution of neighbourhoods.

    Of each scale, 128 neighbourhoods of 7 x 7 px per image are compared, each colour of a set with mean 0 and standard
    deviation 1, along 512 random directions. In units of that deviation, times 1000 as in the paper.

    Args:
        first: uint8 (n, s, s, 3).
        second: As many; more images of one set are not used.
        rng: Generator of places and directions.
    """
    count = min(len(first), len(second))
    one, other = (_descriptors(images[:count], rng) for images in (first, second))
    return {edge: 1000 * _distance(one[edge], other[edge], rng) for edge in one}


def _descriptors(images: NDArray[np.uint8], rng: np.random.Generator) -> dict[int, NDArray[np.float32]]:
    """Neighbourhoods float32 (n · 128, values) by scale, standardised by colour."""
    found: dict[int, list[NDArray[np.float32]]] = {}
    for start in range(0, len(images), IMAGES):
        for edge, level in scales(images[start : start + IMAGES]):
            found.setdefault(edge, []).append(_neighbourhoods(level, rng))
    return {edge: _standardised(np.concatenate(parts)) for edge, parts in found.items()}


def _neighbourhoods(level: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Neighbourhoods (n · 128, 3, 7, 7) at random places of images (n, s, s, 3)."""
    edge = min(NEIGHBOURHOOD, level.shape[1])
    image = np.repeat(np.arange(len(level)), PER_IMAGE)
    top, left = rng.integers(0, level.shape[1] - edge + 1, (2, len(image)))
    windows = np.lib.stride_tricks.sliding_window_view(level, (edge, edge), axis=(1, 2))
    return np.asarray(windows[image, top, left])


def _standardised(found: NDArray[np.float32]) -> NDArray[np.float32]:
    found = found - found.mean((0, 2, 3), keepdims=True)
    deviation = found.std((0, 2, 3), keepdims=True)
    return (found / np.maximum(deviation, 1e-6)).reshape(len(found), -1).astype(np.float32)


def _distance(one: NDArray[np.float32], other: NDArray[np.float32], rng: np.random.Generator) -> float:
    directions = rng.standard_normal((one.shape[1], DIRECTIONS)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    distances = []
    for start in range(0, DIRECTIONS, STEP):
        some = directions[:, start : start + STEP]
        distances.append(np.abs(np.sort(one @ some, axis=0) - np.sort(other @ some, axis=0)).mean(0))
    return float(np.concatenate(distances).mean())
