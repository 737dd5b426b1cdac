"""Distances between two sets of images by their features: the kernel distance KID and the Fréchet distance FID."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

LEAST_IMAGES = 2
"""Images of a set that the distances need."""

RESAMPLES = 500
"""Bootstrap samples behind an interval."""

LEVELS = (2.5, 97.5)
"""Percentiles of the bootstrap samples that are the ends of an interval of 95 %."""


@dataclass(frozen=True)
class Distance:
    """A distance with its interval of 95 %, None where all images of a set are of one group."""

    value: float
    interval: tuple[float, float] | None


def kid(
    features_a: ArrayLike,
    features_b: ArrayLike,
    rng: np.random.Generator,
    *,
    groups_a: Sequence[object] | None = None,
    groups_b: Sequence[object] | None = None,
    resamples: int = RESAMPLES,
) -> Distance:
    """Kernel inception distance (Bińkowski et al., ICLR 2018) of two sets of images, with an interval of 95 %.

    It is the unbiased estimate of the squared maximum mean discrepancy under the kernel ``(x.y / d + 1) ** 3``, so it
    is 0 on average for sets of one distribution, and can be negative. All pairs of images are used instead of small
    random subsets.

    Args:
        features_a: Features (n, d) of one set.
        features_b: Features (m, d) of the other.
        rng: Generator of the bootstrap samples.
        groups_a: What each image of the first set is of: its patient or slide. Groups are drawn, with all their
            images. By default each image is a group.
        groups_b: The same for the second set.
        resamples: Number of bootstrap samples.

    An image that is drawn twice is not compared with itself; a sample of one image drawn repeatedly is drawn again.
    Near 0 the interval is approximate, because the estimate is then no longer close to normal.

    Raises ValueError if a set has fewer than two images, features are not finite, or widths differ.
    """
    a, b = _checked(features_a, features_b)
    kernels = _kernel(a, a), _kernel(b, b), _kernel(a, b)
    for within in kernels[:2]:
        np.fill_diagonal(within, 0.0)
    value = _discrepancy(kernels, np.ones(len(a)), np.ones(len(b)))
    drawn_a, drawn_b = _Draws(groups_a, len(a)), _Draws(groups_b, len(b))
    if drawn_a.count < LEAST_IMAGES or drawn_b.count < LEAST_IMAGES:
        return Distance(value, None)
    samples = [_discrepancy(kernels, drawn_a.weights(rng), drawn_b.weights(rng)) for _ in range(resamples)]
    low, high = np.percentile(samples, LEVELS)
    return Distance(value, (float(low), float(high)))


def fid(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Fréchet distance of two sets of images (Heusel et al., NeurIPS 2017), of features (n, d) and (m, d).

    ``|mean_a - mean_b|^2 + trace(C_a + C_b - 2 (C_a C_b)^0.5)`` with the unbiased covariances C. It is biased upwards,
    more so for fewer images: compare it only between sets of equal numbers, and prefer `kid` for fewer images than
    about ten times the width of the features.

    Raises ValueError as `kid`.
    """
    a, b = _checked(features_a, features_b)
    shift = a.mean(0) - b.mean(0)
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    # With A and B the centred sets, C_a = A'A and C_b = B'B, the eigenvalues of C_a C_b that are not 0 are the squared
    # singular values of A B'. This needs no root of a singular matrix.
    cross = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    distance = shift @ shift + (centred[0] ** 2).sum() + (centred[1] ** 2).sum() - 2 * cross
    return max(0.0, float(distance))


def _checked(features_a: ArrayLike, features_b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = (np.asarray(features, np.float64) for features in (features_a, features_b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features of shapes {a.shape} and {b.shape} cannot be compared; give (n, d) and (m, d)")
    if min(len(a), len(b)) < LEAST_IMAGES:
        raise ValueError(f"sets of {len(a)} and {len(b)} images; a distance needs at least {LEAST_IMAGES} of each")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features that are not finite numbers have no distance")
    return a, b


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)


def _discrepancy(
    kernels: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    weights_a: NDArray[np.float64],
    weights_b: NDArray[np.float64],
) -> float:
    """The squared discrepancy, with images counted ``weights`` times. Diagonals within a set must be 0."""

    def within(kernel: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
        return float(weights @ kernel @ weights / (weights.sum() ** 2 - (weights**2).sum()))

    between = weights_a @ kernels[2] @ weights_b / (weights_a.sum() * weights_b.sum())
    return within(kernels[0], weights_a) + within(kernels[1], weights_b) - 2 * float(between)


class _Draws:
    """How often each of ``images`` images is drawn, by groups."""

    def __init__(self, groups: Sequence[object] | None, images: int) -> None:
        if groups is not None and len(groups) != images:
            raise ValueError(f"{len(groups)} groups were given for {images} images")
        named = range(images) if groups is None else list(map(str, groups))
        self.names, self.group = np.unique(named, return_inverse=True)
        self.count = len(self.names)

    def weights(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Float (images,): the multiplicities of one bootstrap sample with at least two different images."""
        while True:
            drawn = np.bincount(rng.integers(0, self.count, self.count), minlength=self.count)[self.group]
            if np.count_nonzero(drawn) >= LEAST_IMAGES:
                return np.asarray(drawn, np.float64)
