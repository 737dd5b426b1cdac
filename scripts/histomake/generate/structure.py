"""What a stain transfer does to structures: haematoxylin, and nuclei that are invented or lost.

Nuclei are found by Otsu's threshold on the haematoxylin density, one per slide, and a watershed. This finds nuclei of
any stain that has haematoxylin, without a network that might prefer one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.color import hed_from_rgb
from skimage.filters import threshold_otsu

from histomake.base.records.transfer_measures import NucleiMatch
from histomake.base.units import Mpp
from histomake.cells.measure import DENSITY
from histomake.cells.parting import depth_px, part

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUCLEI_MPP = 2.0
"""Coarsest resolution in µm per pixel at which nuclei are looked for."""

LEAST_UM2 = 12.0
"""Area of the smallest nucleus, which is 4 µm wide."""

NECK_UM = 0.5
"""How much narrower a neck is than the nuclei on both sides, in µm of radius."""

SHARED = 0.25
"""A nucleus is invented if less than this share of its pixels are of nuclei of the scanned slide, and lost likewise."""

EDGES = np.linspace(-1.0, 3.0, 1025)
"""Edges of the histogram of densities from which the threshold is chosen."""


@dataclass(frozen=True)
class Views:
    """A place before and after a change of stain: pixels uint8 (h, w, 3), and which are tissue, bool (h, w)."""

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    tissue: NDArray[np.bool_]


AllViews = Callable[[], Iterable[Views]]
"""Yields the windows of a slide; it is called twice."""


@dataclass
class Structure:
    """What `compare` found on a slide: see `SlideStructure`. ``invented``: number by window, in their order."""

    tissue: int
    correlation: float | None
    nuclei: int
    match: NucleiMatch | None
    invented: list[int] = field(default_factory=list)


def haematoxylin(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Density of haematoxylin float32 (h, w) of pixels uint8 (h, w, 3), by Ruifrok and Johnston (2001)."""
    shares = hed_from_rgb[:, 0].astype(np.float32)
    density = DENSITY.astype(np.float32)
    return np.asarray(sum(density[pixels[..., c]] * shares[c] for c in range(3)), np.float32)


def compare(windows: AllViews, mpp: Mpp) -> Structure:
    """Compare the windows of a slide before and after a change of its stain; ``mpp``: their resolution.

    Thresholds are chosen on all tissue before, and on all tissue after, because the stains may differ in strength.
    """
    histograms, sums, tissue = np.zeros((2, len(EDGES) - 1)), np.zeros((3, 3)), 0
    for window in windows():
        found = [haematoxylin(pixels)[window.tissue].astype(np.float64) for pixels in (window.before, window.after)]
        tissue += int(window.tissue.sum())
        for histogram, values in zip(histograms, found, strict=True):
            histogram += np.histogram(values.clip(EDGES[0], EDGES[-1]), EDGES)[0]
        stacked = np.stack([np.ones_like(found[0]), *found])
        sums += stacked @ stacked.T
    correlation = _correlation(sums)
    if mpp > NUCLEI_MPP:
        return Structure(tissue, correlation, 0, None)
    thresholds = [_threshold(histogram) for histogram in histograms]
    counts, pixels, invented = np.zeros(4, int), np.zeros(3, int), []
    for window in windows():
        before, after = (
            nuclei(image, threshold, window.tissue, mpp)
            for image, threshold in zip((window.before, window.after), thresholds, strict=True)
        )
        new, gone = strange(after, before), strange(before, after)
        invented.append(new)
        counts += (before.max(initial=0), after.max(initial=0), new, gone)
        pixels += ((before > 0).sum(), (after > 0).sum(), ((before > 0) & (after > 0)).sum())
    both = int(pixels[0] + pixels[1])
    match = NucleiMatch(
        nuclei=int(counts[1]),
        dice=2 * int(pixels[2]) / both if both else None,
        invented=int(counts[2]),
        lost=int(counts[3]),
    )
    return Structure(tissue, correlation, int(counts[0]), match, invented)


def nuclei(pixels: NDArray[np.uint8], threshold: float, tissue: NDArray[np.bool_], mpp: Mpp) -> NDArray[np.int32]:
    """Numbers of the nuclei of a window, int32 (h, w), 0 for background."""
    labels, _ = part((haematoxylin(pixels) > threshold) & tissue, depth_px(NECK_UM, mpp))
    sizes = np.bincount(labels.ravel())
    kept = sizes >= LEAST_UM2 / mpp**2
    kept[0] = False
    numbers = np.cumsum(kept) * kept
    return np.asarray(numbers[labels], np.int32)


def strange(labels: NDArray[np.int32], others: NDArray[np.int32]) -> int:
    """How many objects of a label image have less than SHARED of their pixels in objects of another one."""
    count = int(labels.max(initial=0))
    if not count:
        return 0
    shares = ndimage.mean(others > 0, labels, np.arange(1, count + 1))
    return int((np.asarray(shares) < SHARED).sum())


def _threshold(histogram: NDArray[np.float64]) -> float:
    """Otsu's threshold of a histogram; infinite without variation."""
    if np.count_nonzero(histogram) < 2:
        return np.inf
    return float(threshold_otsu(hist=(histogram, (EDGES[:-1] + EDGES[1:]) / 2)))


def _correlation(sums: NDArray[np.float64]) -> float | None:
    """Pearson correlation from the sums of products of (1, x, y)."""
    n, x, y, xx, yy, xy = sums[0, 0], sums[0, 1], sums[0, 2], sums[1, 1], sums[2, 2], sums[1, 2]
    spread = (n * xx - x * x) * (n * yy - y * y)
    return float((n * xy - x * y) / np.sqrt(spread)) if spread > 0 else None
