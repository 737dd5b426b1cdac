"""What nearest neighbours tell of samples: precision, recall, and whether training fields were memorised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEIGHBOURS = 3
"""The distance to this neighbour is the radius of an image (Kynkäänniemi et al. 2019)."""

AROUND = 10
"""The distance to this neighbour says how dense training fields are around an image."""

EXPECTED = 0.01
"""Share of held-out fields that are called copies."""

FLAGGED = 0.05
"""Share of samples that are copies, from which memorisation is flagged."""

ROWS = 256


def distances(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Euclidean distances float64 (n, m) of vectors (n, d) and (m, d)."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    squares = (b**2).sum(1)
    parts = [a[s : s + ROWS] for s in range(0, len(a), ROWS)]
    found = [(part**2).sum(1)[:, None] + squares - 2 * part @ b.T for part in parts]
    return np.sqrt(np.maximum(np.concatenate(found), 0))


def coverage(inside: NDArray[np.floating], of: NDArray[np.floating]) -> float:
    """Share of the vectors ``inside`` (n, d) that lie within the radius of some vector of ``of`` (m, d).

    Precision of samples is that of samples within real images, recall that of real images within samples
    (Kynkäänniemi et al., NeurIPS 2019). The radius of a vector is the distance to its third neighbour in its own set.
    Raises ValueError if ``of`` has no more than three vectors.
    """
    if len(of) <= NEIGHBOURS:
        raise ValueError(f"{len(of)} images have no radius; more than {NEIGHBOURS} are needed")
    radius = np.partition(distances(of, of), NEIGHBOURS, axis=1)[:, NEIGHBOURS]
    return float((distances(inside, of) <= radius).any(1).mean())


@dataclass(frozen=True)
class Nearness:
    """Distance of each image to its nearest training field, which one that is, and its ratio to the tenth nearest.

    A copy has a ratio near 0. A blurred image is about equally near to many fields, so that its ratio is near 1.
    """

    distance: NDArray[np.float64]
    nearest: NDArray[np.int64]
    ratio: NDArray[np.float64]


def nearness(posed: NDArray[np.floating], training: NDArray[np.floating]) -> Nearness:
    """Nearness of images, as vectors of all their poses (poses, n, d), to training fields (m, d)."""
    found = distances(posed[0], training)
    for vectors in posed[1:]:
        found = np.minimum(found, distances(vectors, training))
    nearest = found.argmin(1)
    around = min(AROUND, found.shape[1]) - 1
    ranked = np.partition(found, (0, around), axis=1)
    return Nearness(ranked[:, 0], nearest, ranked[:, 0] / np.maximum(ranked[:, around], 1e-12))


def copies(made: Nearness, held_out: Nearness) -> float:
    """Share of samples that are as near to one training field, among its neighbours, as 1 % of the held-out fields."""
    return float((made.ratio < np.quantile(held_out.ratio, EXPECTED)).mean())
