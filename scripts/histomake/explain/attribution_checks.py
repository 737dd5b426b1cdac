"""Sanity checks of attribution maps: additivity, deletion and insertion, and randomised weights.

Additivity: a map must sum to the value that it explains. Deletion and insertion curves are compared with those of
random maps (Petsiuk et al. 2018). Maps of a network with randomised weights must differ from those of the trained
network (Adebayo et al. 2018).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from histomake.base.records.attribution_checks import RandomisedWeights
from histomake.explain.shapley import CELLS, SAMPLES, Margin, cell_numbers, explain

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLUR_SHARE = 0.25
STEPS = 12
RANDOM_MAPS = 5
SANITY_PATCHES = 4


FIGURES = (
    "additivity_error",
    "deletion",
    "random_deletion",
    "insertion",
    "random_insertion",
    "deletion_better",
    "insertion_better",
)
"""Figures of the record: medians over patches, and shares of patches."""


def check(
    margin: nn.Module,
    images: Tensor,
    base: Tensor,
    maps: NDArray[np.float32],
    scores: NDArray[np.float32],
    *,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """Check the map of each patch's highest-scored class.

    ``additivity_error`` is |sum of the map − d| / |d|, where d is the margin minus the mean margin of the background.
    ``deletion`` and ``insertion`` are areas under curves of STEPS + 1 values: the class margin while a growing share
    of cells is deleted or inserted. Cells are deleted by blurring, which removes their structure without adding hard
    edges. A good map has a small deletion area and a large insertion area. ``random_deletion`` and
    ``random_insertion`` are means over RANDOM_MAPS random orders.
    """
    top = scores.argmax(axis=1)
    with torch.no_grad():
        value, reference = margin(images).cpu().numpy(), margin(base).cpu().numpy().mean(axis=0)
    index = np.arange(len(top))
    gap = value[index, top] - reference[top]
    total = maps[index, top].sum((1, 2, 3))
    error = np.abs(total - gap) / np.maximum(np.abs(gap), 1e-6)
    curves: dict[str, list[NDArray[np.float64]]] = {}
    rng = np.random.default_rng([seed, 6])
    for i, image in enumerate(images):
        by_map = np.argsort(-cell_sums(maps[i, top[i]].sum(0)), kind="stable")
        at_random = [rng.permutation(CELLS * CELLS) for _ in range(RANDOM_MAPS)]
        curve = _curves(margin, image, blurred(image), int(top[i]))
        for name, inserting in (("deletion", False), ("insertion", True)):
            random = np.mean([curve(order, inserting) for order in at_random], axis=0)
            curves.setdefault(name, []).append(curve(by_map, inserting))
            curves.setdefault(f"random_{name}", []).append(random)
    checks = {"additivity_error": error}
    for name, found in curves.items():
        checks |= {name: np.trapezoid(found, dx=1 / STEPS, axis=1), f"{name}_curve": np.array(found)}
    return checks


def cell_sums(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum of a map (h, w) over each of CELLS x CELLS squares, in row-major order."""
    rows, columns = (np.linspace(0, length, CELLS, endpoint=False).astype(int) for length in values.shape)
    return np.add.reduceat(np.add.reduceat(values.astype(np.float64), rows), columns, axis=1).ravel()


def blurred(image: Tensor) -> Tensor:
    """Blur an image (c, h, w) so that its structure disappears."""
    size = image.shape[-1]
    kernel = 2 * round(size * BLUR_SHARE) + 1
    return gaussian_blur(image, [kernel, kernel], [kernel / 4, kernel / 4])


def _curves(
    margin: nn.Module, image: Tensor, blank: Tensor, target: int
) -> Callable[[NDArray[np.int64], bool], NDArray[np.float64]]:
    """Return the function that computes the margin of ``target``, (STEPS + 1,), while cells are deleted or inserted."""
    cell_of = cell_numbers(*image.shape[1:])
    bounds = torch.linspace(0, CELLS * CELLS, STEPS + 1).round().long()

    def curve(order: NDArray[np.int64], inserting: bool) -> NDArray[np.float64]:
        rank = torch.empty(CELLS * CELLS, dtype=torch.long)
        rank[torch.from_numpy(order)] = torch.arange(CELLS * CELLS)
        reached = (rank[cell_of][None] < bounds[:, None, None])[:, None].to(image.device)
        shown = torch.where(reached == inserting, image[None], blank[None])
        with torch.no_grad():
            return margin(shown)[:, target].double().cpu().numpy()

    return curve


def summarise(checks: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """Summarise the checks: medians over patches, and the share of patches where SHAP is better than random maps."""
    found = {name: round(float(np.median(checks[name])), 4) for name in FIGURES[:5]}
    for name, better in (("deletion", np.less), ("insertion", np.greater)):
        found[f"{name}_better"] = round(float(better(checks[name], checks[f"random_{name}"]).mean()), 4)
    return found


def randomised(
    margin: Margin, images: Tensor, base: Tensor, maps: NDArray[np.float32], *, seed: int, method: str = "gradient"
) -> RandomisedWeights:
    """Rank correlation of the maps with those of the same network with random weights.

    ``repeat`` is the correlation of two runs with the trained weights: the highest value to expect. ``random`` is the
    correlation with random weights; a value near ``repeat`` means that the maps show the image and not the model. The
    partition method is deterministic, so its ``repeat`` is 1.
    """
    count = min(SANITY_PATCHES, len(images))
    blind = copy.deepcopy(margin)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in blind.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    other = explain(blind.eval(), images[:count], base, seed=seed, samples=SAMPLES // 2, method=method)
    again = explain(margin, images[:count], base, seed=seed + 1, samples=SAMPLES // 2, method=method)
    repeat, random = (_agreement(maps[:count], found) for found in (again, other))
    return RandomisedWeights(repeat=repeat, random=random, patches=count)


def _agreement(first: NDArray[np.float32], second: NDArray[np.float32]) -> float | None:
    """Mean rank correlation of the cell sums of the last class's maps.

    None if one map of every pair is constant, for example because the model's output does not depend on the image.
    """
    pairs = ((cell_sums(a[-1].sum(0)), cell_sums(b[-1].sum(0))) for a, b in zip(first, second, strict=True))
    found = [spearmanr(a, b).statistic for a, b in pairs if np.ptp(a) and np.ptp(b)]
    return round(float(np.mean(found)), 4) if found else None
