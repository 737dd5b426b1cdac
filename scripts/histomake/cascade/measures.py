"""Scores of segmented nuclei: RADHicaL's measures per annotated nucleus, and measures that count every error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array
from skimage.color import rgb2hed
from skimage.filters import threshold_otsu

if TYPE_CHECKING:
    from numpy.typing import NDArray

IOU_MATCH = 0.5


@dataclass(frozen=True)
class Scores:
    """Scores of one slide between 0 and 1, nan without annotation.

    f, tpr, ppv and detected are means over annotated nuclei n (RADHicaL). With D, the union of found objects that
    overlap n: TP = |D ∩ n|, FP = |D minus n|, FN = |n minus D|; n is detected if TP > |n| / 2. Found objects without
    overlap do not count. In pixel_f (Dice), aji (Kumar et al. 2017), pq (Kirillov et al. 2019) and object_f1 (at IoU
    0.5) they count, unless the annotation is incomplete. count_error is |found - nuclei| / nuclei.
    """

    f: float
    tpr: float
    ppv: float
    detected: float
    pixel_f: float
    aji: float
    pq: float
    object_f1: float
    nuclei: int
    found: int
    count_error: float


def score(found: NDArray[np.integer], truth: NDArray[np.integer], *, complete: bool) -> Scores:
    """Compare object numbers (h, w) with nucleus numbers (h, w); 0 is background in both."""
    overlap, found_area, truth_area = _overlaps(found, truth)
    if not complete:
        touched = overlap.sum(axis=0) > 0
        overlap, found_area = overlap[:, touched], found_area[touched]
    return Scores(
        **_per_nucleus(overlap, found_area, truth_area),
        pixel_f=_ratio(2 * int(overlap.sum()), int(found_area.sum() + truth_area.sum())) if truth_area.size else np.nan,
        **_matched(overlap, found_area, truth_area),
        nuclei=len(truth_area),
        found=len(found_area),
        count_error=abs(len(found_area) - len(truth_area)) / len(truth_area) if truth_area.size else np.nan,
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _overlaps(
    found: NDArray[np.integer], truth: NDArray[np.integer]
) -> tuple[csr_array, NDArray[np.int64], NDArray[np.int64]]:
    """Return the overlap in pixels of every (nucleus, found object), and the areas of both."""
    either = (found > 0) | (truth > 0)
    # The appended pixel ensures that 0 is number 0 on both sides; it is removed again below.
    _, f = np.unique(np.append(found[either], 0), return_inverse=True)
    _, t = np.unique(np.append(truth[either], 0), return_inverse=True)
    f, t = f[:-1], t[:-1]
    shape = (int(t.max(initial=0)) + 1, int(f.max(initial=0)) + 1)
    counts = csr_array((np.ones(f.size, np.int64), (t, f)), shape=shape)
    counts.sum_duplicates()
    return counts[1:, 1:], np.asarray(counts.sum(0)).ravel()[1:], np.asarray(counts.sum(1)).ravel()[1:]


def _per_nucleus(overlap: csr_array, found_area: NDArray[np.int64], truth_area: NDArray[np.int64]) -> dict[str, float]:
    """Compute RADHicaL's measures as means over nuclei; a nucleus without overlapping object scores 0 in all."""
    if not truth_area.size:
        return dict.fromkeys(("f", "tpr", "ppv", "detected"), np.nan)
    true = np.asarray(overlap.sum(1)).ravel()
    covered = (overlap > 0).astype(np.int64) @ found_area
    return {
        "f": float((2 * true / (covered + truth_area)).mean()),
        "tpr": float((true / truth_area).mean()),
        "ppv": float((true / np.maximum(covered, 1)).mean()),
        "detected": float((true > truth_area / 2).mean()),
    }


def _matched(overlap: csr_array, found_area: NDArray[np.int64], truth_area: NDArray[np.int64]) -> dict[str, float]:
    """Compute measures that match each nucleus with one found object."""
    if not truth_area.size:
        return dict.fromkeys(("aji", "pq", "object_f1"), np.nan)
    pairs = overlap.tocoo()
    t, f = pairs.coords
    union = truth_area[t] + found_area[f] - pairs.data
    iou = pairs.data / union
    hit = iou > IOU_MATCH  # more than half can overlap with at most one object, so the matching is unique
    matches, misses = int(hit.sum()), len(truth_area) + len(found_area) - 2 * int(hit.sum())
    order = np.lexsort((iou, t))
    best = order[np.append(np.diff(t[order]) > 0, True)] if t.size else order
    inter, joint = pairs.data[best].sum(), union[best].sum()
    missed = truth_area.sum() - truth_area[t[best]].sum()
    unused = np.ones(len(found_area), bool)
    unused[f[best]] = False
    return {
        "aji": _ratio(inter, joint + missed + found_area[unused].sum()),
        "pq": _ratio(iou[hit].sum(), matches + misses / 2),
        "object_f1": _ratio(matches, matches + misses / 2),
    }


def otsu_nuclei(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Segment by Otsu's threshold on the haematoxylin channel (Ruifrok & Johnston), (h, w): the simplest baseline."""
    haematoxylin = rgb2hed(pixels)[..., 0]
    if haematoxylin.min() == haematoxylin.max():
        return np.zeros(haematoxylin.shape, bool)
    return haematoxylin > threshold_otsu(haematoxylin)
